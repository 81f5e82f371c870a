//! Choosing tokens, and feeding them back.

use super::layer::{Storage, store};
use super::noise::Noise;
use super::{Failure, ensure};
use crate::{Choice, DenseWeights, Error, Inference};

/// Rows and a vocabulary; the second is none that workgroups or vectors divide.
const SIZES: [(usize, usize); 3] = [(1, 512), (3, 1001), (1, 40_000)];

/// The most probable token, the lowest id of equals.
pub fn greedy_choices_are_the_largest<B: Inference>(backend: &B, _: f64) -> Result<(), Failure> {
    for (rows, vocabulary) in SIZES {
        let mut logits = Noise::new(5).values(rows * vocabulary);
        for (row, logits) in logits.chunks_exact_mut(vocabulary).enumerate() {
            logits[vocabulary - 1 - row] = 2.0;
            logits[300 + row] = 2.0;
        }
        let x = backend.upload(&logits, vocabulary)?;
        let found = backend.read_tokens(&backend.sample(&x, &Choice::GREEDY)?)?;
        let expected: Vec<u32> = (300..300 + rows as u32).collect();
        ensure(found == expected, || {
            format!("greedy choices of {vocabulary} are {found:?} instead of {expected:?}")
        })?;
    }
    Ok(())
}

/// Draws under every filter are those of [`Choice::choose`], or next to them where a draw falls on a border.
pub fn draws_follow_their_choice<B: Inference>(backend: &B, _: f64) -> Result<(), Failure> {
    let filters = [
        (0, 1.0, 0.0),
        (40, 1.0, 0.0),
        (0, 0.9, 0.0),
        (0, 1.0, 0.05),
        (50, 0.8, 0.02),
        (1, 1.0, 0.0),
    ];
    for (_, vocabulary) in SIZES {
        let mut noise = Noise::new(6);
        let logits: Vec<f32> = noise.values(vocabulary).iter().map(|x| 6.0 * x).collect();
        let x = backend.upload(&logits, vocabulary)?;
        for (top_k, top_p, min_p) in filters {
            for uniform in [0.0, 0.37, 0.93, 0.999] {
                let at = |uniform| Choice {
                    temperature: 0.7,
                    top_k,
                    top_p,
                    min_p,
                    uniform,
                };
                let found = backend.read_tokens(&backend.sample(&x, &at(uniform))?)?;
                // What f32 may add up to moves the draw by this much.
                let near = [0.0, -1e-4, 1e-4].map(|off: f64| (uniform + off).clamp(0.0, 0.999_999));
                let legal = near.map(|uniform| at(uniform).choose(&logits));
                let drawn = <[u32; 1]>::try_from(found).ok().map(|[id]| id);
                ensure(drawn.is_some() && legal.contains(&drawn), || {
                    format!(
                        "{:?} of {vocabulary} drew {drawn:?} instead of {legal:?}",
                        at(uniform)
                    )
                })?;
            }
        }
    }
    let two = backend.upload(&[0.0; 20], 10)?;
    let choice = Choice {
        temperature: 1.0,
        ..Choice::GREEDY
    };
    ensure(backend.sample(&two, &choice).is_err(), || {
        "one draw was made for two rows".to_owned()
    })
}

/// A row with a NaN, and a row of nothing but −∞, have no token.
pub fn nothing_is_chosen_from_what_is_not_finite<B: Inference>(
    backend: &B,
    _: f64,
) -> Result<(), Failure> {
    let mut nan = Noise::new(7).values(600);
    nan[577] = f32::NAN;
    for (what, logits) in [("a NaN", nan), ("nothing", vec![f32::NEG_INFINITY; 600])] {
        let x = backend.upload(&logits, 600)?;
        // A backend that runs at once finds it when it chooses, one that runs behind when the token is read.
        let chosen = backend.sample(&x, &Choice::GREEDY);
        let chosen = chosen.and_then(|tokens| backend.read_tokens(&tokens));
        let refused = matches!(chosen, Err(Error::NotFinite(_)));
        ensure(refused, || format!("a token was chosen from {what}"))?;
    }
    Ok(())
}

/// A token goes back into the embedding without the host having seen it.
pub fn chosen_tokens_are_embedded<B: Inference>(backend: &B, _: f64) -> Result<(), Failure> {
    let (vocabulary, width) = (700, 40);
    let (data, kept) = store(Noise::new(8).values(vocabulary * width), Storage::Bf16);
    let table = backend.load_embedding(DenseWeights::new(vocabulary, width, data)?)?;
    let mut logits = vec![0.0; 2 * vocabulary];
    (logits[613], logits[vocabulary + 4]) = (1.0, 1.0);
    let tokens = backend.sample(&backend.upload(&logits, vocabulary)?, &Choice::GREEDY)?;
    let found = backend.read(&backend.embed_tokens(&table, &tokens)?)?;
    let expected = [&kept[613 * width..][..width], &kept[4 * width..][..width]].concat();
    ensure(found == expected, || {
        "embeddings are not those of the tokens chosen".to_owned()
    })
}
