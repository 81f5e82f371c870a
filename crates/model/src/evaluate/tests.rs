use proptest::prelude::*;

use super::*;

fn probabilities(logits: &[f32]) -> Vec<f64> {
    let weights: Vec<f64> = logits.iter().map(|&x| f64::from(x).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

fn rows() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
    (1usize..40).prop_flat_map(|n| {
        let row = || prop::collection::vec(-20.0f32..20.0, n);
        (row(), row())
    })
}

proptest! {
    #[test]
    fn scores_are_those_of_the_definition((model, reference) in rows(), target in any::<prop::sample::Index>()) {
        let target = target.index(model.len());
        let score = TokenScore::new(&model, &reference, target as u32);
        let (p, q) = (probabilities(&reference), probabilities(&model));
        let divergence: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * (1.0 + a.abs());
        prop_assert!(close(score.nll, -q[target].ln()));
        prop_assert!(close(score.reference_nll, -p[target].ln()));
        prop_assert!(close(score.divergence, divergence), "{} {}", score.divergence, divergence);
        prop_assert!(score.divergence >= -1e-12);
    }

    #[test]
    fn a_model_agrees_with_itself((row, _) in rows()) {
        let score = TokenScore::new(&row, &row, 0);
        prop_assert_eq!(score.divergence, 0.0);
        prop_assert!(score.agrees);
    }

    #[test]
    fn shifting_all_logits_changes_nothing((model, reference) in rows(), shift in -8i8..8) {
        let shifted: Vec<f32> = model.iter().map(|x| x + f32::from(shift)).collect();
        let here = TokenScore::new(&model, &reference, 0);
        let there = TokenScore::new(&shifted, &reference, 0);
        prop_assert!((here.divergence - there.divergence).abs() < 1e-4);
        prop_assert!((here.nll - there.nll).abs() < 1e-4);
    }

    #[test]
    fn pieces_cover_all_rows_within_the_bound(rows in 0usize..2000, vocabulary in 1usize..200_000) {
        let mut next = 0;
        for piece in row_pieces(rows, vocabulary) {
            prop_assert_eq!(piece.start, next);
            prop_assert!(piece.len() == 1 || piece.len() * vocabulary <= LOGITS_AT_ONCE);
            next = piece.end;
        }
        prop_assert_eq!(next, rows);
    }
}

#[test]
fn large_logits_do_not_overflow() {
    let row = LogSoftmax::new(&[1e30, 0.0, f32::NEG_INFINITY]);
    assert_eq!(row.nll(0), 0.0);
    assert_eq!(row.divergence(&row), 0.0);
}

#[test]
fn windows_are_whole_and_do_not_overlap() {
    let tokens: Vec<u32> = (0..10).collect();
    let cut = |length, limit| Windows { length, limit }.cut(&tokens);
    assert_eq!(cut(4, None).unwrap(), [&[0, 1, 2, 3][..], &[4, 5, 6, 7]]);
    assert_eq!(cut(4, Some(1)).unwrap(), [&[0, 1, 2, 3][..]]);
    assert_eq!(cut(4, Some(9)).unwrap().len(), 2);
    assert!(matches!(cut(1, None), Err(Error::ShortWindow(1))));
    assert!(matches!(
        cut(11, None),
        Err(Error::ShortText {
            tokens: 10,
            window: 11
        })
    ));
}

#[test]
fn chunks_pair_each_input_with_its_successor() {
    let length = 2 * PREFILL_CHUNK + 7;
    let tokens: Vec<u32> = (0..2 * length as u32 + 5).collect();
    let vocabulary = tokens.len();
    let windows = Windows {
        length,
        limit: None,
    };
    let (mut opened, mut pairs, mut done) = (0, 0, Vec::new());
    let result = each_chunk(
        &tokens,
        vocabulary,
        windows,
        &mut |p| done.push(p.done),
        |chunk| {
            opened += usize::from(chunk.opens_window);
            assert!(chunk.inputs.len() <= PREFILL_CHUNK);
            assert_eq!(chunk.inputs.len(), chunk.targets.len());
            for (input, target) in chunk.inputs.iter().zip(chunk.targets) {
                assert_eq!(input + 1, *target);
            }
            pairs += chunk.targets.len();
            Ok(chunk.targets.len() as f64 * 2f64.ln())
        },
    )
    .unwrap();
    assert_eq!((opened, pairs, done), (2, 2 * (length - 1), vec![1, 2]));
    assert_eq!((result.windows, result.scored), (2, pairs));
    assert!((result.perplexity - 2.0).abs() < 1e-12);
}

#[test]
fn a_loss_that_is_not_finite_is_an_error() {
    let windows = Windows {
        length: 2,
        limit: None,
    };
    let result = each_chunk(&[1, 2], 3, windows, &mut |_| (), |_| Ok(f64::NAN));
    assert!(matches!(result, Err(Error::NotFinite)));
}

#[test]
fn a_token_outside_the_vocabulary_is_an_error_also_as_the_last() {
    let windows = Windows {
        length: 2,
        limit: None,
    };
    let result = each_chunk(&[1, 3], 3, windows, &mut |_| (), |_| Ok(0.0));
    let message = result.unwrap_err().to_string();
    assert_eq!(message, "token id 3 is outside the vocabulary of 3");
}
