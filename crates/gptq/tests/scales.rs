//! Scales of groups, codes to nearest and whole packed matrices against values that this crate did not compute, and
//! searches against slow twins.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that it cannot read"
)]

mod safetensors;

use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::Golden;
use treillage_gptq::{
    Config, Element, Error, Format, GroupScales, GroupedLinear, IntBits, MxRule, Parts, Rotation,
    ScaleRule, ScaleType, Scales, choose_scales, e4m3, e8m0, global_scale, pack, round_to_nearest,
};

/// A configuration that no scale is searched with.
fn minmax(format: Format, group: usize) -> Config {
    Config {
        group,
        scales: ScaleRule::Minmax,
        ..Config::new(format)
    }
}

/// The cases of the golden file, by name.
fn recorded() -> Vec<(&'static str, Config)> {
    let mx = |mx_rule| Config {
        mx_rule,
        ..minmax(Format::MxFp4, 32)
    };
    let asymmetric = |bits| Config {
        symmetric: false,
        ..minmax(Format::Int(bits), 32)
    };
    let bf16 = Config {
        scale_type: ScaleType::Bf16,
        ..minmax(Format::Int(IntBits::Four), 128)
    };
    vec![
        ("int2_g64", minmax(Format::Int(IntBits::Two), 64)),
        ("int3_g32", minmax(Format::Int(IntBits::Three), 32)),
        ("int4_g128", minmax(Format::Int(IntBits::Four), 128)),
        ("int4_g32", minmax(Format::Int(IntBits::Four), 32)),
        ("int8_g128", minmax(Format::Int(IntBits::Eight), 128)),
        ("int4_bf16", bf16),
        ("fp4_g128", minmax(Format::Fp4, 128)),
        ("asym2_g32", asymmetric(IntBits::Two)),
        ("asym4_g32", asymmetric(IntBits::Four)),
        ("asym8_g32", asymmetric(IntBits::Eight)),
        ("nvfp4", minmax(Format::NvFp4, 16)),
        ("mxfp4_ocp", mx(MxRule::Ocp)),
        ("mxfp4_ct", mx(MxRule::CompressedTensors)),
        ("mxfp4_fpq", mx(MxRule::FpQuant)),
    ]
}

fn linear(
    codes: Vec<u8>,
    scales: GroupScales,
    [out_features, in_features]: [usize; 2],
    config: &Config,
) -> GroupedLinear {
    let element = config.format.element();
    GroupedLinear::new(Parts {
        in_features,
        out_features,
        element,
        group: config.group,
        codes: pack::to_stored(codes, element),
        scales: scales.scales,
        zeros: scales.zeros,
        order: None,
        rotation: Rotation::None,
        bias: None,
    })
    .unwrap()
}

/// As `make_golden.py` has it: zeros are positive.
fn crc32(weights: &[f32]) -> u32 {
    let bytes: Vec<u8> = weights
        .iter()
        .flat_map(|w| (w + 0.0).to_le_bytes())
        .collect();
    crc32fast::hash(&bytes)
}

#[test]
fn scales_codes_and_weights_are_those_recorded() {
    let golden = Golden::open();
    let weights = golden.f32("w");
    let shape @ [outputs, inputs] = golden.shape("w");
    for (name, config) in recorded() {
        let part = |part: &str| format!("{name}.{part}");
        let scales = choose_scales(&weights, outputs, inputs, &config, None).unwrap();
        match &scales.scales {
            Scales::F16(scales) => {
                let bits: Vec<u16> = scales.iter().map(|scale| scale.to_bits()).collect();
                assert_eq!(bits, golden.u16(&part("scales")), "{name}");
            }
            Scales::Bf16(scales) => {
                let bits: Vec<u16> = scales.iter().map(|scale| scale.to_bits()).collect();
                assert_eq!(bits, golden.u16(&part("scales")), "{name}");
            }
            Scales::E4m3 { bytes, global } | Scales::E8m0 { bytes, global } => {
                assert_eq!(*bytes, golden.u8(&part("scales")), "{name}");
                assert_eq!([*global], *golden.f32(&part("global")).as_slice(), "{name}");
            }
            Scales::F32(_) => panic!("{name} has scales of 32 bits"),
        }
        if !config.symmetric {
            assert_eq!(scales.zeros, Some(golden.u8(&part("zeros"))), "{name}");
        }
        let codes = round_to_nearest(&weights, outputs, inputs, &scales, &config).unwrap();
        assert_eq!(codes, golden.u8(&part("codes")), "{name}");
        let decoded = linear(codes, scales, shape, &config).dequantize();
        assert_eq!(
            [crc32(&decoded)],
            *golden.u32(&part("crc32")).as_slice(),
            "{name}"
        );
    }
}

/// Zeros that lost their sign are its −0: the only difference that there may be.
fn without_negative_zeros(nibbles: Vec<u8>) -> Vec<u8> {
    let mut codes = pack::widen(&nibbles);
    codes
        .iter_mut()
        .filter(|code| **code == 8)
        .for_each(|code| *code = 0);
    pack::nibbles(&codes)
}

#[test]
fn compressed_tensors_packs_the_same_and_loads_the_same() {
    let golden = Golden::open();
    let weights = golden.f32("w");
    let shape @ [outputs, inputs] = golden.shape("w");
    let halves = |name: &str| {
        golden
            .u16(name)
            .into_iter()
            .map(f16::from_bits)
            .collect::<Vec<_>>()
    };

    for (name, bits) in [("ct.int4", IntBits::Four), ("ct.int8", IntBits::Eight)] {
        let config = minmax(Format::Int(bits), 32);
        let scales = choose_scales(&weights, outputs, inputs, &config, None).unwrap();
        assert_eq!(
            scales.scales,
            Scales::F16(halves(&format!("{name}.scales")))
        );
        let codes = round_to_nearest(&weights, outputs, inputs, &scales, &config).unwrap();
        let packed = pack::pack_rows(&codes, inputs, bits);
        assert_eq!(packed, golden.u32(&format!("{name}.packed")), "{name}");
        let decoded = linear(codes, scales, shape, &config).dequantize();
        assert_eq!(
            [crc32(&decoded)],
            *golden.u32(&format!("{name}.crc32")).as_slice()
        );
    }

    // Its zeros come from scales that are not yet halves, so they are read, not compared.
    let config = Config {
        symmetric: false,
        ..minmax(Format::Int(IntBits::Four), 32)
    };
    let groups = inputs / 32;
    let scales = GroupScales {
        scales: Scales::F16(halves("ct.int4_asym.scales")),
        zeros: Some(pack::unpack_columns(
            &golden.u32("ct.int4_asym.zeros"),
            outputs,
            groups,
            IntBits::Four,
        )),
    };
    let packed = golden.u32("ct.int4_asym.packed");
    let codes = pack::unpack_rows(&packed, outputs, inputs, IntBits::Four);
    let decoded = linear(codes, scales, shape, &config).dequantize();
    assert_eq!(
        [crc32(&decoded)],
        *golden.u32("ct.int4_asym.crc32").as_slice()
    );

    let mx = Config {
        mx_rule: MxRule::CompressedTensors,
        ..minmax(Format::MxFp4, 32)
    };
    for (name, config) in [("ct.nvfp4", minmax(Format::NvFp4, 16)), ("ct.mxfp4", mx)] {
        let ours = choose_scales(&weights, outputs, inputs, &config, None).unwrap();
        let stored = golden.u8(&format!("{name}.scales"));
        let groups = inputs / config.group;
        let (bytes, global) = match &ours.scales {
            Scales::E4m3 { bytes, global } => (bytes, *global),
            Scales::E8m0 { bytes, global } => (bytes, *global),
            scales => panic!("{scales:?}"),
        };
        for (at, (ours, theirs)) in bytes.iter().zip(&stored).enumerate() {
            let (row, from) = (at / groups, at % groups * config.group);
            let group = &weights[row * inputs + from..][..config.group];
            // A group of zeros has any scale.
            assert!(
                ours == theirs || group.iter().all(|&w| w == 0.0),
                "{name}: {at}"
            );
        }
        let theirs = match name {
            "ct.nvfp4" => {
                assert_eq!([global], *golden.f32("ct.nvfp4.global").as_slice());
                Scales::E4m3 {
                    bytes: stored,
                    global,
                }
            }
            _ => Scales::E8m0 {
                bytes: stored,
                global: 1.0,
            },
        };
        let codes = round_to_nearest(&weights, outputs, inputs, &ours, &config).unwrap();
        let packed = without_negative_zeros(golden.u8(&format!("{name}.packed")));
        assert_eq!(pack::nibbles(&codes), packed, "{name}");
        let theirs = GroupScales {
            scales: theirs,
            zeros: None,
        };
        for scales in [ours, theirs] {
            let decoded = linear(codes.clone(), scales, shape, &config).dequantize();
            assert_eq!(
                [crc32(&decoded)],
                *golden.u32(&format!("{name}.crc32")).as_slice()
            );
        }
    }
}

/// `Σ importance · (w − Q(w))²` of one group, with each weight divided by its scale as solvers do it.
fn error_of(group: &[f32], importance: &[f32], scale: f32, zero: u8, element: Element) -> f64 {
    let error = |(&weight, &importance): (&f32, &f32)| {
        let value = element.decode(element.encode(weight / scale, zero), zero) * scale;
        f64::from(importance) * f64::from(weight - value).powi(2)
    };
    group.iter().zip(importance).map(error).sum()
}

/// All positive scales that the file can hold, near enough to be chosen.
fn representable(scales: &Scales) -> Vec<f32> {
    match scales {
        Scales::F16(_) => (1..0x7C00)
            .map(|bits| f16::from_bits(bits).to_f32())
            .collect(),
        Scales::Bf16(_) => (1..0x7F80)
            .map(|bits| bf16::from_bits(bits).to_f32())
            .collect(),
        Scales::E4m3 { global, .. } => (1..0x7F).map(|byte| e4m3::decode(byte) / global).collect(),
        Scales::E8m0 { global, .. } => (0..255).map(|byte| e8m0::decode(byte) / global).collect(),
        Scales::F32(_) => panic!("nothing chooses 32 bits"),
    }
}

fn formats() -> impl Strategy<Value = Config> {
    let all = recorded()
        .into_iter()
        .map(|(_, config)| config)
        .collect::<Vec<_>>();
    (prop::sample::select(all), any::<bool>()).prop_map(|(config, four_over_six)| Config {
        scales: ScaleRule::Mse,
        four_over_six,
        ..config
    })
}

/// Weights with tails, some of them zero, and how much their inputs count.
fn matrix() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
    let weight = prop_oneof![8 => -1f32..1.0, 1 => -4f32..4.0, 1 => Just(0.0)];
    let importance = prop_oneof![3 => 0.1f32..4.0, 1 => Just(0.0)];
    (
        prop::collection::vec(weight, 3 * 128),
        prop::collection::vec(importance, 128),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn searched_scales_are_no_worse_than_those_of_the_largest(
        (weights, importance) in matrix(),
        config in formats(),
        weighted: bool,
    ) {
        let ones = vec![1.0; 128];
        let counts = if weighted { &importance } else { &ones };
        let choose = |rule| {
            let config = Config { scales: rule, ..config.clone() };
            choose_scales(&weights, 3, 128, &config, weighted.then_some(&importance)).unwrap()
        };
        let (plain, searched) = (choose(ScaleRule::Minmax), choose(ScaleRule::Mse));
        let element = config.format.element();
        let representable = representable(&searched.scales);
        let groups = weights.chunks(config.group).zip(counts.chunks(config.group).cycle());
        for (at, (group, counts)) in groups.enumerate() {
            let error = |scales: &GroupScales| {
                let zero = scales.zeros.as_ref().map_or(element.middle(), |zeros| zeros[at]);
                error_of(group, counts, scales.scales.get(at), zero, element)
            };
            let (before, after) = (error(&plain), error(&searched));
            prop_assert!(after <= before * (1.0 + 1e-5), "{after} is more than {before}");

            // Of bytes each in reach is tried: none is better.
            if matches!(searched.scales, Scales::E4m3 { .. } | Scales::E8m0 { .. }) {
                let first = plain.scales.get(at);
                let reach = match (config.format, config.four_over_six) {
                    (Format::MxFp4, _) => 0.25..=2.0,
                    (_, true) => 0.2..=1.5,
                    (_, false) => 0.2..=1.1,
                };
                for &scale in representable.iter().filter(|&s| reach.contains(&(s / first))) {
                    let other = error_of(group, counts, scale, 0, element);
                    prop_assert!(after <= other * (1.0 + 1e-5), "{other} at {scale}");
                }
            }
        }
    }

    #[test]
    fn scales_of_halves_are_close_to_the_best_there_is((weights, _) in matrix()) {
        // Every tenth half is tried here, one in eight of those around the best there: on both sides a few per cent are
        // lost.
        let config = Config { group: 128, ..Config::new(Format::Int(IntBits::Four)) };
        let scales = choose_scales(&weights, 3, 128, &config, None).unwrap();
        let ones = [1.0; 128];
        let element = config.format.element();
        for (at, group) in weights.chunks(128).enumerate() {
            let chosen = scales.scales.get(at);
            let found = error_of(group, &ones, chosen, element.middle(), element);
            let near = representable(&scales.scales).into_iter().step_by(10);
            let best = near
                .filter(|scale| (0.5..2.0).contains(&(scale / chosen)))
                .map(|scale| error_of(group, &ones, scale, element.middle(), element))
                .fold(f64::INFINITY, f64::min);
            prop_assert!(found <= best * 1.05, "{found} against {best}");
        }
    }
}

/// Normal deviates (Box and Muller).
fn normal(count: usize) -> Vec<f32> {
    use rand::{Rng, SeedableRng};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let mut deviate = || {
        let (radius, turn): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * turn).cos()
    };
    (0..count).map(|_| deviate() as f32).collect()
}

fn relative_error(weights: &[f32], shape: [usize; 2], config: &Config) -> f64 {
    let [outputs, inputs] = shape;
    let scales = choose_scales(weights, outputs, inputs, config, None).unwrap();
    let codes = round_to_nearest(weights, outputs, inputs, &scales, config).unwrap();
    let decoded = linear(codes, scales, shape, config).dequantize();
    let square = |x: f32| f64::from(x).powi(2);
    let error: f64 = weights
        .iter()
        .zip(&decoded)
        .map(|(a, b)| square(a - b))
        .sum();
    error / weights.iter().copied().map(square).sum::<f64>()
}

#[test]
fn searched_scales_pay_on_normal_weights() {
    let weights = normal(128 * 1024);
    // Errors of scales by the largest magnitude: four from §4 of the specification, the last two of its reference's
    // grids.
    let mx = |mx_rule| Config {
        mx_rule,
        ..Config::new(Format::MxFp4)
    };
    let cases = [
        (Config::new(Format::Int(IntBits::Four)), 0.01228, 0.85),
        (Config::new(Format::Fp4), 0.01185, 0.9),
        (Config::new(Format::NvFp4), 0.00905, 0.75),
        (mx(MxRule::FpQuant), 0.01384, 0.93),
        (mx(MxRule::Ocp), 0.01325, 0.96),
        (mx(MxRule::CompressedTensors), 0.01254, 0.998),
    ];
    for (config, known, gain) in cases {
        let plain = Config {
            scales: ScaleRule::Minmax,
            ..config.clone()
        };
        let plain = relative_error(&weights, [128, 1024], &plain);
        assert!(
            (plain / known - 1.0).abs() < 0.02,
            "{}: {plain}",
            config.format
        );
        let searched = relative_error(&weights, [128, 1024], &config);
        assert!(
            searched < gain * plain,
            "{}: {searched}, {plain}",
            config.format
        );
    }
    // A quarter of the largest magnitude is worth trying.
    let without = Config {
        four_over_six: false,
        ..Config::new(Format::NvFp4)
    };
    let without = relative_error(&weights, [128, 1024], &without);
    assert!(relative_error(&weights, [128, 1024], &Config::new(Format::NvFp4)) < 0.95 * without);
}

#[test]
fn what_counts_more_is_rounded_better() {
    let weights = normal(64 * 256);
    let importance: Vec<f32> = (0..256)
        .map(|i| if i % 16 == 0 { 100.0 } else { 1.0 })
        .collect();
    let config = Config::new(Format::Int(IntBits::Three));
    let error = |importance: Option<&[f32]>| {
        let scales = choose_scales(&weights, 64, 256, &config, importance).unwrap();
        let codes = round_to_nearest(&weights, 64, 256, &scales, &config).unwrap();
        let decoded = linear(codes, scales, [64, 256], &config).dequantize();
        let important = weights.iter().zip(decoded).step_by(16);
        important
            .map(|(w, q)| f64::from(w - q).powi(2))
            .sum::<f64>()
    };
    assert!(error(Some(&importance)) < 0.9 * error(None));
}

#[test]
fn where_nothing_counts_the_largest_magnitude_decides() {
    let weights = normal(4 * 128);
    for (name, config) in recorded() {
        let searched = Config {
            scales: ScaleRule::Mse,
            ..config.clone()
        };
        let plain = choose_scales(&weights, 4, 128, &config, None).unwrap();
        let nothing = choose_scales(&weights, 4, 128, &searched, Some(&[0.0; 128])).unwrap();
        assert_eq!(plain, nothing, "{name}");
        // No number is no guide either.
        let strange = choose_scales(&weights, 4, 128, &searched, Some(&[f32::NAN; 128])).unwrap();
        assert_eq!(plain, strange, "{name}");
    }
}

#[test]
fn threads_change_no_scale() {
    let weights = normal(64 * 256);
    for (_, config) in recorded() {
        let config = Config {
            scales: ScaleRule::Mse,
            ..config
        };
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(|| choose_scales(&weights, 64, 256, &config, None).unwrap())
        };
        assert_eq!(with(1), with(3));
    }
}

#[test]
fn groups_of_zeros_have_scales_that_can_be_stored() {
    let mut weights = vec![0.0; 2 * 128];
    for mixed in [false, true] {
        if mixed {
            weights[7] = 1.0;
        }
        for (name, config) in recorded() {
            for rule in [ScaleRule::Minmax, ScaleRule::Mse] {
                let config = Config {
                    scales: rule,
                    ..config.clone()
                };
                let scales = choose_scales(&weights, 2, 128, &config, None).unwrap();
                if let Scales::E4m3 { bytes, .. } = &scales.scales {
                    assert!(bytes.iter().all(|&byte| byte > 0));
                }
                assert!(
                    scales
                        .scales
                        .to_f32()
                        .iter()
                        .all(|&s| s > 0.0 && s.is_finite()),
                    "{name}"
                );
                let codes = round_to_nearest(&weights, 2, 128, &scales, &config).unwrap();
                let decoded = linear(codes, scales, [2, 128], &config).dequantize();
                assert!(decoded[128..].iter().all(|&w| w == 0.0), "{name}");
            }
        }
    }
}

#[test]
fn a_shared_factor_is_used() {
    let weights = normal(32 * 64);
    assert_eq!(global_scale(&[0.0; 4]), 1.0);
    let own = global_scale(&weights);
    let largest = weights.iter().fold(0f32, |most, w| most.max(w.abs()));
    assert_eq!(own, 2688.0 / largest);
    assert!(global_scale(&[1e-44]).is_finite());

    let config = Config {
        global_scale: Some(own / 2.0),
        ..minmax(Format::NvFp4, 16)
    };
    let shared = choose_scales(&weights, 32, 64, &config, None).unwrap();
    let Scales::E4m3 { bytes, global } = shared.scales else {
        panic!("nvfp4 has bytes for scales")
    };
    assert_eq!(global, own / 2.0);
    // The largest scale is half of E4M3's largest: 224.
    assert_eq!(bytes.iter().max(), Some(&e4m3::encode(224.0)));
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let config = Config {
            global_scale: Some(bad),
            ..config.clone()
        };
        let refused = choose_scales(&weights, 32, 64, &config, None);
        assert!(matches!(refused, Err(Error::GlobalScale(_))));
    }
}

#[test]
fn what_cannot_be_scaled_is_refused() {
    let config = Config::new(Format::Int(IntBits::Four));
    let choose = |weights: &[f32], config: &Config| choose_scales(weights, 2, 128, config, None);
    let mut weights = vec![1.0; 256];
    assert!(matches!(
        choose(&weights[1..], &config),
        Err(Error::Shape { .. })
    ));
    let refused = choose_scales(&weights, 2, 128, &config, Some(&[1.0]));
    assert!(matches!(refused, Err(Error::Shape { .. })));
    for group in [0, 3, 96] {
        let config = Config {
            group,
            ..config.clone()
        };
        assert!(matches!(
            choose(&weights, &config),
            Err(Error::Group { .. })
        ));
    }
    let refused = choose(&weights, &minmax(Format::NvFp4, 32));
    assert!(matches!(refused, Err(Error::Group { group: 32, .. })));
    weights[128 + 5] = 1e9;
    assert!(matches!(
        choose(&weights, &config),
        Err(Error::ScaleRange(_))
    ));
    let wide = Config {
        scale_type: ScaleType::Bf16,
        ..config.clone()
    };
    assert!(choose(&weights, &wide).is_ok());
    weights[128 + 5] = f32::NAN;
    let refused = choose(&weights, &wide);
    assert!(matches!(
        refused,
        Err(Error::NotFinite {
            input: 5,
            output: 1,
            ..
        })
    ));
}
