//! What kernels of linears have in common.

use std::fmt::Write;

/// Which rows meet which matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// All rows the same.
    All,
    /// Each row that of its expert.
    Picked,
    /// Rows sorted by expert.
    Grouped,
}

impl Route {
    /// The buffer that says which rows meet which matrix.
    pub(crate) fn picks(self) -> Option<(&'static str, &'static str, &'static str)> {
        (self != Route::All).then_some(("picks", "read", "u32"))
    }

    /// The constant `ROUTE`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Route::All => "all",
            Route::Picked => "picked",
            Route::Grouped => "grouped",
        }
    }

    /// Ends a kernel that decodes the matrix of an `expert` that no row meets.
    pub(crate) fn skip(self) -> &'static str {
        match self {
            Route::Grouped => "if picks[expert] == picks[expert + 1u] {\nreturn;\n}",
            _ => "",
        }
    }
}

/// The buffers that a kernel binds, in order; `stored` are views of the weights, `codes` in fours; `atomic` are numbers.
pub(crate) fn bindings(
    stored: &[&str],
    route: Route,
    residual: bool,
    outputs: usize,
    atomic: &[&str],
) -> String {
    let read = |name: &str, of| (name.to_owned(), "read", of);
    let mut names = Vec::new();
    for &name in stored {
        names.push(read(
            name,
            if name == "codes" { "vec4<u32>" } else { "u32" },
        ));
    }
    names.push(read("x", "f32"));
    if route != Route::All {
        names.push(read("picks", "u32"));
    }
    if residual {
        names.push(read("residual", "f32"));
    }
    let outputs = (0..outputs).map(|i| (format!("out{i}"), "read_write", "f32"));
    names.extend(outputs);
    let atomic = atomic.iter();
    names.extend(atomic.map(|name| ((*name).to_owned(), "read_write", "atomic<u32>")));
    let names: Vec<_> = names
        .iter()
        .map(|(n, access, of)| (n.as_str(), *access, *of))
        .collect();
    declare(&names)
}

/// Declares buffers `(name, access, of what)`, bound in this order.
pub(crate) fn declare(buffers: &[(&str, &str, &str)]) -> String {
    lines(buffers.iter().enumerate().map(|(i, (name, access, of))| {
        format!("@group(0) @binding({i}) var<storage, {access}> {name}: array<{of}>;")
    }))
}

/// A function that stores a value of one of the outputs.
pub(crate) fn store(residual: bool, outputs: usize) -> String {
    let residual = match residual {
        true => " + residual[index]",
        false => "",
    };
    let mut text = String::from("fn store(linear: u32, index: u32, y: f32) {\n");
    for i in 0..outputs {
        let _ = writeln!(
            text,
            "    if linear == {i}u {{\n        out{i}[index] = y{residual};\n    }}"
        );
    }
    text + "}"
}

pub(crate) fn lines(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().collect::<Vec<_>>().join("\n")
}

/// How the 32 lanes of a team exchange values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exchange {
    /// By subgroup operations and barriers: a team is a subgroup, of exactly 32 lanes.
    Subgroup,
    /// By shuffles: subgroups hold whole teams.
    Shuffle,
    /// Through workgroup memory.
    Workgroup,
}

impl Exchange {
    /// The constant `EXCHANGE`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Exchange::Subgroup => "subgroup",
            Exchange::Shuffle => "shuffle",
            Exchange::Workgroup => "workgroup",
        }
    }

    /// Bytes of workgroup memory for `lanes` lanes: a vector and a number of each.
    pub(crate) fn bytes(self, lanes: usize) -> usize {
        match self {
            Exchange::Subgroup | Exchange::Shuffle => 0,
            Exchange::Workgroup => (16 + 4) * lanes,
        }
    }
}
