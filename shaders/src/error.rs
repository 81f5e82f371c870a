/// Why a module could not be composed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    /// There is no such source.
    #[error("there is no shader source `{name}`{}", wanted(user))]
    UnknownSource {
        /// What was asked for.
        name: String,
        /// The source that imports it; `None` if it is the caller.
        user: Option<String>,
    },
    /// Imports lead back to their start.
    #[error("shader sources import each other in a circle: {}", path.join(" → "))]
    Cycle {
        /// From a source to itself again.
        path: Vec<String>,
    },
    /// A source uses a constant that was not given.
    #[error("{source_name}:{line}: the constant `{constant}` has no value")]
    MissingConstant {
        /// Where.
        source_name: String,
        /// Its line, from 1.
        line: usize,
        /// Which.
        constant: String,
    },
    /// A constant was given that no source of the module uses.
    #[error("`{module}` has no constant `{constant}`")]
    UnknownConstant {
        /// The module.
        module: String,
        /// Which.
        constant: String,
    },
    /// A constant was given twice.
    #[error("the constant `{constant}` is given twice")]
    RepeatedConstant {
        /// Which.
        constant: String,
    },
    /// A mark that the composer does not understand: an unclosed `{{`, or a `//!` line that is not an import.
    #[error("{source_name}:{line}: not understood: `{text}`")]
    Syntax {
        /// Where.
        source_name: String,
        /// Its line, from 1.
        line: usize,
        /// The line.
        text: String,
    },
}

fn wanted(user: &Option<String>) -> String {
    user.as_ref()
        .map_or_else(String::new, |user| format!(", which `{user}` imports"))
}
