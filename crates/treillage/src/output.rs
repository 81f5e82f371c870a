//! What a command says: one value, shown as JSON to machines and as text to people.

use std::{
    fmt::Display,
    io::{self, Write},
};

use anyhow::{Context, Result};
use serde::Serialize;

/// Writes `value` to standard output, as indented JSON or as its text.
pub(crate) fn print(value: &(impl Serialize + Display), json: bool) -> Result<()> {
    let text = if json {
        serde_json::to_string_pretty(value).context("cannot write the result as JSON")?
    } else {
        value.to_string()
    };
    print_line(text.trim_end())
}

/// Writes `value` to standard output as one line of JSON, at once.
pub(crate) fn print_json_line(value: &impl Serialize) -> Result<()> {
    print_line(&serde_json::to_string(value).context("cannot write the result as JSON")?)
}

fn print_line(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()?;
    Ok(())
}

/// Writes `text` to standard output as it is, at once.
pub(crate) fn print_now(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Tells people something on standard error. That nobody listens there is no reason to fail.
pub(crate) fn note(text: impl Display) {
    _ = writeln!(io::stderr(), "{text}");
}

/// Asks people for something on standard error, the cursor behind it.
pub(crate) fn prompt(text: &str) {
    _ = write!(io::stderr(), "{text}");
}
