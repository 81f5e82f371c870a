//! Products with weights.

use crate::{
    Kernel, Specialization,
    linear::{Exchange, Route},
    matmul::{Basis, Matmul, MatmulInputs, MatmulOutputs},
    registry::{Family, source},
    rows::{Arrange, Format, RowsDecode, RowsGemv, RowsMatmul, Scales, Weights},
    trellis::{
        Activations, Codebook, Rates, Splits, TrellisDecode, TrellisFew, TrellisGemv, TrellisMatmul,
    },
};

pub(crate) const FAMILY: Family = Family {
    sources: &[
        source!("linear/activation"),
        source!("linear/activations_exact"),
        source!("linear/activations_half"),
        source!("linear/activations_sign"),
        source!("linear/arrange"),
        source!("linear/basis_plain"),
        source!("linear/basis_rotated"),
        source!("linear/eight"),
        source!("linear/exchange_shuffle"),
        source!("linear/exchange_subgroup"),
        source!("linear/exchange_workgroup"),
        source!("linear/finish_plain"),
        source!("linear/finish_rotated"),
        source!("linear/gated"),
        source!("linear/halves"),
        source!("linear/header"),
        source!("linear/inputs"),
        source!("linear/jobs"),
        source!("linear/matmul"),
        source!("linear/matmul_inputs"),
        source!("linear/matmul_lanes"),
        source!("linear/matmul_matrices"),
        source!("linear/matmul_outputs"),
        source!("linear/params"),
        source!("linear/product"),
        source!("linear/put"),
        source!("linear/route_all"),
        source!("linear/route_grouped"),
        source!("linear/route_picked"),
        source!("linear/rows_decode"),
        source!("linear/rows_gemv"),
        source!("linear/rows_matmul"),
        source!("linear/scales_bf16"),
        source!("linear/scales_e4m3"),
        source!("linear/scales_e8m0"),
        source!("linear/scales_f16"),
        source!("linear/scales_f32"),
        source!("linear/span_range"),
        source!("linear/span_unit"),
        source!("linear/splits_count"),
        source!("linear/splits_meet"),
        source!("linear/splits_none"),
        source!("linear/stored"),
        source!("linear/team"),
        source!("linear/tiny_halves"),
        source!("linear/trellis_decode"),
        source!("linear/trellis_few"),
        source!("linear/trellis_gemv"),
        source!("linear/trellis_matmul"),
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
            name: TrellisFew::SOURCE,
            hot: true,
            specializations: trellis_few,
        },
        Kernel {
            name: "linear/tiny_halves",
            hot: false,
            specializations: || vec![Specialization::default()],
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
            name: MatmulOutputs::SOURCE,
            hot: false,
            specializations: matmul_outputs,
        },
        Kernel {
            name: MatmulInputs::SOURCE,
            hot: false,
            specializations: matmul_inputs,
        },
        Kernel {
            name: RowsGemv::SOURCE,
            hot: false,
            specializations: rows_gemv,
        },
        Kernel {
            name: RowsMatmul::SOURCE,
            hot: true,
            specializations: rows_matmul,
        },
        Kernel {
            name: RowsDecode::SOURCE,
            hot: false,
            specializations: rows_decode,
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
        teams: 8,
        parts: 1,
        outputs: 2,
        route: Route::Picked,
        residual: false,
        meets: false,
        once: true,
        exchange: Exchange::Subgroup,
    };
    let plain = TrellisGemv {
        route: Route::All,
        outputs: 1,
        once: false,
        ..first
    };
    let mut kernels = vec![
        first,
        TrellisGemv {
            residual: true,
            meets: true,
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
    for activations in [Activations::Sign, Activations::Exact, Activations::Half] {
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
    kernels.iter().map(TrellisGemv::specialization).collect()
}

/// All numbers of rows, with each of the other constants once.
pub(crate) fn few_kernels() -> Vec<TrellisFew> {
    let first = TrellisFew {
        rates: Rates::one(3),
        codebook: Codebook::Mul1,
        activations: Activations::Half,
        rows: 2,
        teams: 8,
        blocks: 14,
        outputs: 1,
        route: Route::All,
        residual: false,
        splits: Splits::Meet,
        straddles: true,
        tiny: true,
        exchange: Exchange::Subgroup,
    };
    let plain = TrellisFew {
        blocks: 2,
        splits: Splits::None,
        straddles: false,
        tiny: false,
        ..first
    };
    let mut kernels = vec![
        first,
        TrellisFew {
            splits: Splits::Count,
            activations: Activations::Exact,
            outputs: 2,
            rates: Rates::one(2).and(5).and(3),
            ..first
        },
        TrellisFew {
            splits: Splits::Count,
            exchange: Exchange::Workgroup,
            residual: true,
            ..plain
        },
        TrellisFew {
            exchange: Exchange::Shuffle,
            rates: Rates::one(2).and(5).and(3),
            ..plain
        },
    ];
    for codebook in [Codebook::ThreeInst, Codebook::Mcg, Codebook::Mul1] {
        kernels.push(TrellisFew { codebook, ..plain });
    }
    for rows in [4, 8, 16] {
        for activations in [Activations::Exact, Activations::Half] {
            kernels.push(TrellisFew {
                activations,
                route: Route::Grouped,
                rows,
                ..plain
            });
        }
    }
    kernels
}

fn trellis_few() -> Vec<Specialization> {
    let kernels = few_kernels();
    kernels.iter().map(TrellisFew::specialization).collect()
}

/// Every form of weights and of scales.
fn formats() -> Vec<Format> {
    let first = Format {
        weights: Weights::Int4,
        scales: Scales::F16,
        group: 128,
    };
    let mut formats = vec![first];
    for weights in [Weights::F32, Weights::F16, Weights::Bf16] {
        formats.push(Format {
            weights,
            scales: Scales::None,
            ..first
        });
    }
    for weights in [Weights::Int2, Weights::Int3, Weights::Int8, Weights::E2m1] {
        formats.push(Format { weights, ..first });
    }
    for scales in [Scales::F32, Scales::Bf16, Scales::E4m3, Scales::E8m0] {
        formats.push(Format {
            scales,
            group: 16,
            ..first
        });
    }
    formats
}

/// Every format, every route.
fn rows_gemv() -> Vec<Specialization> {
    let of = |format| RowsGemv {
        format,
        rows: 1,
        teams: 4,
        outputs: 1,
        route: Route::All,
        residual: false,
        exchange: Exchange::Subgroup,
    };
    let mut kernels: Vec<_> = formats().into_iter().map(of).collect();
    let first = kernels[0];
    kernels.extend([
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
    ]);
    kernels.iter().map(RowsGemv::specialization).collect()
}

/// Every format; those routes that many rows take.
fn rows_matmul() -> Vec<Specialization> {
    let of = |format| RowsMatmul {
        format,
        outputs: 1,
        route: Route::All,
        residual: false,
    };
    let mut kernels: Vec<_> = formats().into_iter().map(of).collect();
    let first = kernels[0];
    kernels.extend([
        RowsMatmul {
            route: Route::Grouped,
            outputs: 2,
            ..first
        },
        RowsMatmul {
            residual: true,
            ..first
        },
    ]);
    kernels.iter().map(RowsMatmul::specialization).collect()
}

/// Every format that is not of plain numbers, both routes.
fn rows_decode() -> Vec<Specialization> {
    let grouped = |format: &Format| format.scales != Scales::None;
    let formats = formats().into_iter().filter(grouped);
    let routes = [Route::All, Route::Grouped];
    let kernels = formats.flat_map(|format| routes.map(|route| RowsDecode { format, route }));
    kernels.map(|kernel| kernel.specialization()).collect()
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

fn matmul_outputs() -> Vec<Specialization> {
    let first = MatmulOutputs {
        rows: 64,
        teams: 8,
        route: Route::Grouped,
        residual: false,
        basis: Basis::Rotated(Exchange::Subgroup),
    };
    let second = MatmulOutputs {
        route: Route::All,
        residual: true,
        basis: Basis::Rotated(Exchange::Workgroup),
        ..first
    };
    let third = MatmulOutputs {
        basis: Basis::Plain,
        ..second
    };
    [first, second, third]
        .map(|kernel| kernel.specialization())
        .to_vec()
}

fn matmul_inputs() -> Vec<Specialization> {
    let first = MatmulInputs {
        rows: 64,
        teams: 8,
        route: Route::All,
        basis: Basis::Rotated(Exchange::Subgroup),
    };
    let kernels = [
        first,
        MatmulInputs {
            route: Route::Grouped,
            basis: Basis::Rotated(Exchange::Workgroup),
            ..first
        },
        MatmulInputs {
            basis: Basis::Plain,
            ..first
        },
    ];
    kernels.iter().map(MatmulInputs::specialization).collect()
}
