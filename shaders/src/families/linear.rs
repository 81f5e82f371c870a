//! Products with weights.

use crate::{
    Kernel, Specialization,
    linear::{Exchange, Route},
    matmul::Matmul,
    registry::{Family, source},
    rows::{Arrange, RowsGemv, Scales, Weights},
    trellis::{
        Activations, Codebook, Rates, TrellisDecode, TrellisFinish, TrellisGemv, TrellisMatmul,
        TrellisRotate,
    },
};

pub(crate) const FAMILY: Family = Family {
    sources: &[
        source!("linear/activation"),
        source!("linear/activations_exact"),
        source!("linear/activations_half"),
        source!("linear/activations_sign"),
        source!("linear/arrange"),
        source!("linear/exchange_shuffle"),
        source!("linear/exchange_subgroup"),
        source!("linear/exchange_workgroup"),
        source!("linear/finish"),
        source!("linear/matmul"),
        source!("linear/matmul_lanes"),
        source!("linear/matmul_matrices"),
        source!("linear/gated"),
        source!("linear/params"),
        source!("linear/route_all"),
        source!("linear/route_grouped"),
        source!("linear/route_picked"),
        source!("linear/rows_gemv"),
        source!("linear/scales_bf16"),
        source!("linear/scales_e4m3"),
        source!("linear/scales_e8m0"),
        source!("linear/scales_f16"),
        source!("linear/scales_f32"),
        source!("linear/team"),
        source!("linear/trellis_decode"),
        source!("linear/trellis_finish"),
        source!("linear/trellis_gemv"),
        source!("linear/trellis_matmul"),
        source!("linear/trellis_rotate"),
        source!("linear/two_halves"),
        source!("linear/weights_bf16"),
        source!("linear/weights_byte"),
        source!("linear/weights_e2m1"),
        source!("linear/weights_f16"),
        source!("linear/weights_f32"),
        source!("linear/weights_nibble"),
        source!("linear/zeros"),
    ],
    kernels: &[
        Kernel {
            name: TrellisGemv::SOURCE,
            hot: true,
            specializations: trellis_gemv,
        },
        Kernel {
            name: TrellisDecode::SOURCE,
            hot: false,
            specializations: trellis_decode,
        },
        Kernel {
            name: Matmul::SOURCE,
            hot: true,
            specializations: matmul,
        },
        Kernel {
            name: TrellisMatmul::SOURCE,
            hot: true,
            specializations: trellis_matmul,
        },
        Kernel {
            name: TrellisFinish::SOURCE,
            hot: false,
            specializations: trellis_finish,
        },
        Kernel {
            name: TrellisRotate::SOURCE,
            hot: false,
            specializations: trellis_rotate,
        },
        Kernel {
            name: RowsGemv::SOURCE,
            hot: false,
            specializations: rows_gemv,
        },
        Kernel {
            name: Arrange::SOURCE,
            hot: false,
            specializations: arrange,
        },
    ],
};

/// Every rate and codebook, every arithmetic, and each of the other constants once.
fn trellis_gemv() -> Vec<Specialization> {
    let first = TrellisGemv {
        rates: Rates::one(3),
        codebook: Codebook::Mul1,
        activations: Activations::Sign,
        rows: 1,
        teams: 8,
        parts: 1,
        outputs: 2,
        route: Route::Picked,
        residual: false,
        split: false,
        exchange: Exchange::Subgroup,
    };
    let plain = TrellisGemv {
        route: Route::All,
        outputs: 1,
        ..first
    };
    let mut kernels = vec![
        first,
        TrellisGemv {
            residual: true,
            split: true,
            teams: 4,
            ..plain
        },
        TrellisGemv {
            exchange: Exchange::Workgroup,
            outputs: 3,
            parts: 2,
            ..plain
        },
    ];
    kernels.push(TrellisGemv {
        exchange: Exchange::Shuffle,
        ..plain
    });
    for bits in 1..=8 {
        kernels.push(TrellisGemv {
            rates: Rates::one(bits),
            ..plain
        });
    }
    for activations in [Activations::Sign, Activations::Exact] {
        kernels.push(TrellisGemv {
            rates: Rates::one(2).and(5).and(3),
            activations,
            ..first
        });
    }
    for codebook in [Codebook::ThreeInst, Codebook::Mcg, Codebook::Mul1] {
        for activations in [Activations::Exact, Activations::Half] {
            kernels.push(TrellisGemv {
                codebook,
                activations,
                ..plain
            });
        }
    }
    for (rows, teams, parts) in [(2, 8, 1), (4, 8, 2), (8, 4, 2), (16, 8, 4)] {
        let rows = TrellisGemv {
            rows,
            teams,
            parts,
            ..plain
        };
        for activations in [Activations::Exact, Activations::Half] {
            kernels.push(TrellisGemv {
                activations,
                route: Route::Grouped,
                ..rows
            });
        }
    }
    kernels.iter().map(TrellisGemv::specialization).collect()
}

/// Every form of weights and of scales, every route.
fn rows_gemv() -> Vec<Specialization> {
    let first = RowsGemv {
        weights: Weights::Int4,
        scales: Scales::F16,
        group: 128,
        rows: 1,
        teams: 4,
        outputs: 1,
        route: Route::All,
        residual: false,
        exchange: Exchange::Subgroup,
    };
    let mut kernels = vec![
        first,
        RowsGemv {
            route: Route::Picked,
            outputs: 2,
            ..first
        },
        RowsGemv {
            route: Route::Grouped,
            rows: 16,
            exchange: Exchange::Workgroup,
            ..first
        },
        RowsGemv {
            rows: 4,
            residual: true,
            ..first
        },
    ];
    for weights in [Weights::F32, Weights::F16, Weights::Bf16] {
        kernels.push(RowsGemv {
            weights,
            scales: Scales::None,
            ..first
        });
    }
    for weights in [Weights::Int2, Weights::Int3, Weights::Int8, Weights::E2m1] {
        kernels.push(RowsGemv { weights, ..first });
    }
    for scales in [Scales::F32, Scales::Bf16, Scales::E4m3, Scales::E8m0] {
        kernels.push(RowsGemv {
            scales,
            group: 16,
            ..first
        });
    }
    kernels.iter().map(RowsGemv::specialization).collect()
}

fn arrange() -> Vec<Specialization> {
    let first = Arrange {
        rotation: 128,
        teams: 4,
        route: Route::All,
        exchange: Exchange::Subgroup,
    };
    let kernels = [
        first,
        Arrange {
            rotation: 1,
            route: Route::Picked,
            ..first
        },
        Arrange {
            rotation: 16,
            route: Route::Grouped,
            exchange: Exchange::Workgroup,
            ..first
        },
    ];
    kernels.iter().map(Arrange::specialization).collect()
}

fn trellis_decode() -> Vec<Specialization> {
    let first = TrellisDecode {
        bits: 3,
        codebook: Codebook::Mul1,
        teams: 4,
        route: Route::Grouped,
    };
    let mut kernels = vec![
        first,
        TrellisDecode {
            route: Route::All,
            ..first
        },
    ];
    for bits in 1..=8 {
        kernels.push(TrellisDecode { bits, ..first });
    }
    for codebook in [Codebook::ThreeInst, Codebook::Mcg] {
        kernels.push(TrellisDecode { codebook, ..first });
    }
    kernels.iter().map(TrellisDecode::specialization).collect()
}

fn matmul() -> Vec<Specialization> {
    let kernels = [
        (Route::Grouped, true),
        (Route::All, true),
        (Route::Grouped, false),
    ];
    kernels
        .map(|(route, matrices)| Matmul { route, matrices }.specialization())
        .to_vec()
}

fn trellis_matmul() -> Vec<Specialization> {
    let first = TrellisMatmul {
        bits: 3,
        codebook: Codebook::Mul1,
        rows: 16,
        teams: 4,
        route: Route::All,
    };
    let mut kernels = vec![
        first,
        TrellisMatmul {
            rows: 64,
            teams: 8,
            route: Route::Grouped,
            ..first
        },
    ];
    for bits in 1..=8 {
        kernels.push(TrellisMatmul { bits, ..first });
    }
    for codebook in [Codebook::ThreeInst, Codebook::Mcg] {
        kernels.push(TrellisMatmul { codebook, ..first });
    }
    kernels.iter().map(TrellisMatmul::specialization).collect()
}

fn trellis_finish() -> Vec<Specialization> {
    let first = TrellisFinish {
        rows: 64,
        route: Route::Grouped,
        residual: false,
        teams: 8,
        exchange: Exchange::Subgroup,
    };
    let second = TrellisFinish {
        route: Route::All,
        residual: true,
        exchange: Exchange::Workgroup,
        ..first
    };
    [first, second]
        .map(|kernel| kernel.specialization())
        .to_vec()
}

fn trellis_rotate() -> Vec<Specialization> {
    let first = TrellisRotate {
        rows: 64,
        teams: 8,
        route: Route::All,
        exchange: Exchange::Subgroup,
    };
    let kernels = [
        first,
        TrellisRotate {
            route: Route::Grouped,
            exchange: Exchange::Workgroup,
            ..first
        },
    ];
    kernels.iter().map(TrellisRotate::specialization).collect()
}
