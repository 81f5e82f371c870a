//! Licences of everything that is linked or built with, against the list in deny.toml.

use std::fs;

use anyhow::{Context, Result};

use crate::command::{cargo, has_subcommand, root, run};
use crate::metadata::Metadata;

pub(crate) fn check(metadata: &Metadata) -> Result<Vec<String>> {
    if has_subcommand("deny") {
        run(&mut cargo(&[
            "deny", "check", "licenses", "bans", "sources",
        ]))?;
        return Ok(Vec::new());
    }
    println!("cargo-deny is not installed: checking licence fields against deny.toml");
    let text = fs::read_to_string(root().join("deny.toml")).context("deny.toml")?;
    let allowed = allowed(&text).context("deny.toml has no list `allow` under [licenses]")?;
    let problem = |name: &str, licence: Option<&str>| match licence {
        None => Some(format!("{name} names no licence")),
        Some(licence) if !accepts(licence, &allowed) => {
            Some(format!("{name}: `{licence}` is not in deny.toml's list"))
        }
        Some(_) => None,
    };
    Ok(metadata
        .packages()
        .filter_map(|package| problem(&package.name, package.licence.as_deref()))
        .collect())
}

/// The strings of `allow = [...]` under `[licenses]`.
fn allowed(toml: &str) -> Option<Vec<&str>> {
    let (_, section) = toml.split_once("[licenses]")?;
    let (_, list) = section.split_once("allow = [")?;
    let (list, _) = list.split_once(']')?;
    Some(list.split('"').skip(1).step_by(2).collect())
}

/// Whether an SPDX expression can be met by `allowed`. `AND` binds tighter than `OR`; the old `A/B` means `A OR B`.
fn accepts(expression: &str, allowed: &[&str]) -> bool {
    let expression = expression.replace('/', " OR ");
    let spaced = expression.replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    alternatives(&mut words, allowed)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn alternatives(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    let mut met = conjunction(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        met |= conjunction(words, allowed);
    }
    met
}

fn conjunction(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    let mut met = licence(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        met &= licence(words, allowed);
    }
    met
}

fn licence(words: &mut Words<'_>, allowed: &[&str]) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let met = alternatives(words, allowed);
        return words.next_if_eq(&")").is_some() && met;
    }
    let Some(name) = words.next() else {
        return false;
    };
    match words.next_if_eq(&"WITH").and_then(|_| words.next()) {
        Some(exception) => allowed.contains(&format!("{name} WITH {exception}").as_str()),
        None => allowed.contains(&name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_met_by_the_list() {
        let allowed = ["MIT", "Apache-2.0", "Unicode-3.0"];
        for (expression, met) in [
            ("MIT", true),
            ("GPL-3.0", false),
            ("GPL-3.0 OR MIT", true),
            ("MIT/Apache-2.0", true),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("MIT AND GPL-3.0", false),
            ("GPL-3.0 OR MIT AND BSL-1.0", false),
            ("Apache-2.0 WITH LLVM-exception", false),
            ("Apache-2.0 WITH LLVM-exception OR MIT", true),
            ("(MIT", false),
            ("", false),
        ] {
            assert_eq!(accepts(expression, &allowed), met, "{expression}");
        }
    }

    #[test]
    fn the_list_is_read_from_its_section() {
        let toml =
            "[graph]\nallow = [\"GPL\"]\n[licenses]\nallow = [\n  \"MIT\",\n  \"Zlib\", # why\n]\n";
        assert_eq!(allowed(toml), Some(vec!["MIT", "Zlib"]));
        assert_eq!(allowed("[licenses]\n"), None);
    }
}
