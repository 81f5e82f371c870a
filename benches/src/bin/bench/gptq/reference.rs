//! The numpy reference in a process of its own, asked step by step.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

const DRIVER: &str = include_str!("driver.py");

pub(crate) struct Reference {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    folder: tempfile::TempDir,
    /// Version of numpy.
    pub(crate) version: Value,
}

impl Reference {
    /// Starts `python` on the reference at `script`, with as many BLAS threads as asked for.
    pub(crate) fn start(python: &Path, script: &Path, threads: usize) -> Result<Self> {
        if !script.is_file() {
            bail!("{}: there is no reference", script.display());
        }
        let folder = tempfile::tempdir()?;
        let driver = folder.path().join("driver.py");
        std::fs::write(&driver, DRIVER)?;
        let mut command = Command::new(python);
        for variable in ["OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"] {
            command.env(variable, threads.to_string());
        }
        let mut child = command
            .arg(driver)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start {}", python.display()))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (requests, answers) = pipes.context("no pipes to the reference")?;
        let mut reference = Self {
            child,
            requests,
            answers: BufReader::new(answers),
            folder,
            version: Value::Null,
        };
        reference.version = reference.answer()?["numpy"].take();
        Ok(reference)
    }

    /// By default where the specification lies.
    pub(crate) fn default_script() -> PathBuf {
        let shared = std::env::var_os("TREILLAGE_SHARED").unwrap_or_else(|| "../shared".into());
        Path::new(&shared).join("spec/mr_gptq_ref.py")
    }

    /// Its own draws of weights `[out, in]` and activations `[tokens, in]`.
    pub(crate) fn inputs(
        &mut self,
        outputs: usize,
        inputs: usize,
        tokens: usize,
    ) -> Result<[Vec<f32>; 2]> {
        let folder = self.folder.path().to_owned();
        self.ask(json!({
            "do": "inputs", "outputs": outputs, "inputs": inputs, "tokens": tokens, "folder": folder,
        }))?;
        let read = |name: &str| -> Result<Vec<f32>> {
            let bytes = std::fs::read(folder.join(name)).with_context(|| name.to_owned())?;
            Ok(bytes
                .as_chunks()
                .0
                .iter()
                .map(|&b| f32::from_le_bytes(b))
                .collect())
        };
        Ok([read("weights")?, read("x")?])
    }

    /// Asks for something and waits for it.
    pub(crate) fn ask(&mut self, request: Value) -> Result<Value> {
        writeln!(self.requests, "{request}").context("the reference has ended")?;
        self.requests.flush()?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).context("the reference has failed; is numpy installed?")
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // It waits for requests; nothing is lost, and nobody is left to hear of a failure.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
