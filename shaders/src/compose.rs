//! Imports and constants.

use std::collections::{BTreeMap, BTreeSet};

use crate::{ComposeError, registry};

/// Marks an import, at the start of a line.
const USE: &str = "//!use ";

/// Composes the module of source `name`: what it imports, each source once and before its users, with `{{NAME}}`
/// replaced by the value of the constant of that name. `enable` lines move to the top. The same arguments give the
/// same text.
///
/// # Errors
/// [`ComposeError`]: sources that are not there or import each other in a circle; constants that are missing, unknown
/// or given twice; marks that are not understood.
pub fn compose(name: &str, constants: &[(&str, &str)]) -> Result<String, ComposeError> {
    compose_from(name, constants, |name| {
        registry::sources()
            .find(|source| source.name == name)
            .map(|source| source.text)
    })
}

fn compose_from<'s>(
    name: &str,
    constants: &[(&str, &str)],
    find: impl Fn(&str) -> Option<&'s str>,
) -> Result<String, ComposeError> {
    let mut values = BTreeMap::new();
    for &(constant, value) in constants {
        if values.insert(constant, value).is_some() {
            return Err(ComposeError::RepeatedConstant {
                constant: constant.to_owned(),
            });
        }
    }
    let mut composer = Composer {
        find,
        values,
        used: BTreeSet::new(),
        done: BTreeSet::new(),
        open: Vec::new(),
        enables: BTreeSet::new(),
        body: String::new(),
    };
    composer.include(name)?;
    let unknown = |constant: &&&str| !composer.used.contains(**constant);
    if let Some(constant) = composer.values.keys().find(unknown) {
        return Err(ComposeError::UnknownConstant {
            module: name.to_owned(),
            constant: (*constant).to_owned(),
        });
    }
    let mut module = String::new();
    for enable in &composer.enables {
        module.push_str(enable);
        module.push('\n');
    }
    module.push_str(&composer.body);
    Ok(module)
}

struct Composer<'a, F> {
    find: F,
    values: BTreeMap<&'a str, &'a str>,
    used: BTreeSet<String>,
    /// Sources that are in `body`.
    done: BTreeSet<String>,
    /// Sources that wait for their imports, outermost first.
    open: Vec<String>,
    enables: BTreeSet<String>,
    body: String,
}

impl<'s, F: Fn(&str) -> Option<&'s str>> Composer<'_, F> {
    fn include(&mut self, name: &str) -> Result<(), ComposeError> {
        if self.done.contains(name) {
            return Ok(());
        }
        if let Some(start) = self.open.iter().position(|open| open == name) {
            let mut path = self.open.split_off(start);
            path.push(name.to_owned());
            return Err(ComposeError::Cycle { path });
        }
        let text = (self.find)(name).ok_or_else(|| ComposeError::UnknownSource {
            name: name.to_owned(),
            user: self.open.last().cloned(),
        })?;
        self.open.push(name.to_owned());
        let mut own = format!("// {name}.wgsl\n");
        for (number, line) in (1..).zip(text.lines()) {
            let line = self.substitute(name, number, line)?;
            let trimmed = line.trim();
            if let Some(import) = line.strip_prefix(USE) {
                self.include(import.trim())?;
            } else if line.starts_with("//!") {
                return Err(ComposeError::Syntax {
                    source_name: name.to_owned(),
                    line: number,
                    text: line,
                });
            } else if trimmed.starts_with("enable ") && trimmed.ends_with(';') {
                self.enables.insert(trimmed.to_owned());
            } else {
                own.push_str(&line);
                own.push('\n');
            }
        }
        self.open.pop();
        self.done.insert(name.to_owned());
        self.body.push_str(&own);
        Ok(())
    }

    fn substitute(
        &mut self,
        source: &str,
        line: usize,
        text: &str,
    ) -> Result<String, ComposeError> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let syntax = || ComposeError::Syntax {
                source_name: source.to_owned(),
                line,
                text: text.to_owned(),
            };
            let (constant, after) = after.split_once("}}").ok_or_else(syntax)?;
            let legal = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            if constant.is_empty() || !constant.chars().all(legal) {
                return Err(syntax());
            }
            let value = self
                .values
                .get(constant)
                .ok_or_else(|| ComposeError::MissingConstant {
                    source_name: source.to_owned(),
                    line,
                    constant: constant.to_owned(),
                })?;
            self.used.insert(constant.to_owned());
            out.push_str(before);
            out.push_str(value);
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(
        files: &[(&str, &'static str)],
        constants: &[(&str, &str)],
    ) -> Result<String, ComposeError> {
        compose_from("main", constants, |name| {
            files
                .iter()
                .find(|(file, _)| *file == name)
                .map(|(_, text)| *text)
        })
    }

    #[test]
    fn imports_come_once_and_before_their_users() {
        let files = [
            ("main", "enable f16;\n//!use b\n//!use a\nmain"),
            ("a", "//!use c\na"),
            ("b", "//!use c\nb"),
            ("c", "enable f16;\nc"),
        ];
        let text = of(&files, &[]).unwrap();
        assert_eq!(
            text,
            "enable f16;\n// c.wgsl\nc\n// b.wgsl\nb\n// a.wgsl\na\n// main.wgsl\nmain\n"
        );
    }

    #[test]
    fn constants_are_replaced_in_imports_too() {
        let files = [
            ("main", "//!use sum_{{HOW}}\nx{{N}}y{{N}}"),
            ("sum_slow", "{{N}}"),
        ];
        let text = of(&files, &[("HOW", "slow"), ("N", "4")]).unwrap();
        assert_eq!(text, "// sum_slow.wgsl\n4\n// main.wgsl\nx4y4\n");
    }

    #[test]
    fn mistakes_are_named() {
        let missing = |source: &str, line, constant: &str| ComposeError::MissingConstant {
            source_name: source.into(),
            line,
            constant: constant.into(),
        };
        assert_eq!(
            of(&[("main", "\n{{N}}")], &[]),
            Err(missing("main", 2, "N"))
        );
        let unknown = ComposeError::UnknownConstant {
            module: "main".into(),
            constant: "N".into(),
        };
        assert_eq!(of(&[("main", "x")], &[("N", "1")]), Err(unknown));
        let repeated = ComposeError::RepeatedConstant {
            constant: "N".into(),
        };
        assert_eq!(
            of(&[("main", "{{N}}")], &[("N", "1"), ("N", "1")]),
            Err(repeated)
        );
        for text in ["{{N", "{{}}", "{{n}}", "{{A B}}", "//!import x", "//!use"] {
            let error = of(&[("main", text)], &[]).unwrap_err();
            assert!(
                matches!(error, ComposeError::Syntax { line: 1, .. }),
                "{text}: {error}"
            );
        }
        let absent = ComposeError::UnknownSource {
            name: "a".into(),
            user: Some("main".into()),
        };
        assert_eq!(of(&[("main", "//!use a")], &[]), Err(absent));
        assert!(of(&[], &[]).is_err());
        let circle = [("main", "//!use a"), ("a", "//!use b"), ("b", "//!use a")];
        let path = ["a", "b", "a"].map(str::to_owned).to_vec();
        assert_eq!(of(&circle, &[]), Err(ComposeError::Cycle { path }));
    }
}
