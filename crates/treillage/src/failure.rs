//! How a command ends when it cannot do what it was asked.

use std::{io, process::ExitCode};

use crate::output::note;

/// Exit status of a wrong command line.
const USAGE: u8 = 2;

/// Tells why a command failed, in one line, and gives its exit status.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        // Whoever read our output has seen enough.
        return ExitCode::SUCCESS;
    }
    note(format_args!("error: {}", one_line(error)));
    ExitCode::FAILURE
}

/// Shows help and version as they are and anything else as one line.
pub(crate) fn report_usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        _ = error.print();
    } else {
        let text = error.to_string();
        let reason = text.split("\n\nUsage:").next().unwrap_or(&text);
        let reason = reason.split("\n\nFor more").next().unwrap_or(reason);
        note(flat(reason));
    }
    ExitCode::from(USAGE)
}

/// The chain of causes, outermost first. A cause that its effect already quotes is not told twice.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = flat(&cause.to_string());
        if line.contains(&cause) {
            continue;
        }
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&cause);
    }
    line
}

fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn causes_are_joined_once() {
        let error = anyhow!("no space\nleft")
            .context("a.safetensors: no space left")
            .context("quantize");
        assert_eq!(one_line(&error), "quantize: a.safetensors: no space left");
        let error = anyhow!("file is short").context("cannot open DIR");
        assert_eq!(one_line(&error), "cannot open DIR: file is short");
    }
}
