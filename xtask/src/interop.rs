//! `cargo xtask interop`: checkpoints of ours in the hands of other programs, and theirs in ours.
//!
//! The other programs are Python packages, installed into a virtual environment under `target/interop/`; without
//! Python, or without a registry that answers, nothing is compared and that is said aloud.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::command::{cargo, root, run as run_command};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A group-quantized model of ours to compare as well: what `treillage quantize --method mr-gptq` wrote
    #[arg(long)]
    model: Vec<PathBuf>,
    /// The Python that the environment is made with
    #[arg(long, default_value = "python3")]
    python: PathBuf,
}

/// Packages to be installed, and the script that uses them.
const REQUIREMENTS: &str = "xtask/interop/requirements.txt";
const SCRIPT: &str = "xtask/interop/check.py";

pub(crate) fn run(args: &Args) -> Result<()> {
    let folder = root().join("target/interop");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let python = match environment(&folder, &args.python)? {
        Ok(python) => python,
        Err(reason) => {
            println!("skipped: {reason}");
            return Ok(());
        }
    };
    let check = |verb: &str, folders: &[PathBuf]| {
        let mut command = Command::new(&python);
        command.args(["-W", "ignore"]);
        command.arg(root().join(SCRIPT)).arg(verb).args(folders);
        // Nothing is to be fetched: all models are local.
        command.env("HF_HUB_OFFLINE", "1").current_dir(root());
        run_command(&mut command)
    };

    // With the features that the whole workspace wants, so that what its tests were built with is there already.
    run_command(&mut cargo(&[
        "build",
        "--locked",
        "--quiet",
        "--workspace",
        "--example",
        "interop",
    ]))?;
    // Beside this program, wherever cargo builds.
    let built = std::env::current_exe().context("where this program is")?;
    let built = built.with_file_name("examples").join("interop");
    let example = || Command::new(&built);

    let ours = emptied(folder.join("ours"))?;
    run_command(example().arg("write").arg(&ours))?;
    check("ours", &[ours])?;

    let theirs = emptied(folder.join("theirs"))?;
    check("make", std::slice::from_ref(&theirs))?;
    run_command(example().arg("read").args(folders(&theirs)?))?;
    check("theirs", &[theirs])?;

    let models = emptied(folder.join("models"))?;
    run_command(example().arg("models").arg(&models))?;
    let mut models: Vec<_> = folders(&models)?;
    models.retain(|path| !path.to_string_lossy().ends_with("-dense"));
    for model in &args.model {
        models.push(with_dense_twin(model, &folder)?);
    }
    check("model", &models)
}

/// A Python with all packages, or why there is none.
fn environment(folder: &Path, system: &Path) -> Result<Result<PathBuf, String>> {
    let venv = folder.join("venv");
    let python = venv.join(if cfg!(windows) {
        "Scripts/python.exe"
    } else {
        "bin/python"
    });
    let wanted = root().join(REQUIREMENTS);
    let wanted_text = fs::read_to_string(&wanted).with_context(|| wanted.display().to_string())?;
    // Written when everything is installed: says of what.
    let installed = venv.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|text| text == wanted_text) {
        return Ok(Ok(python));
    }
    let made = Command::new(system)
        .args(["-m", "venv"])
        .arg(&venv)
        .output();
    match made {
        Err(cause) => return Ok(Err(format!("{} does not start: {cause}", system.display()))),
        Ok(output) if !output.status.success() => {
            let reason = last_line(&output.stdout, &output.stderr);
            return Ok(Err(format!("no virtual environment: {reason}")));
        }
        Ok(_) => {}
    }
    println!("installing {}", wanted_text.trim().replace('\n', ", "));
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--no-input"]);
    pip.args(["--disable-pip-version-check", "--requirement"]);
    let output = pip.arg(&wanted).output();
    let output = output.with_context(|| python.display().to_string())?;
    if !output.status.success() {
        let reason = last_line(&output.stdout, &output.stderr);
        return Ok(Err(format!("pip installs nothing: {reason}")));
    }
    fs::write(&installed, wanted_text).with_context(|| installed.display().to_string())?;
    Ok(Ok(python))
}

fn last_line(stdout: &[u8], stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr) + String::from_utf8_lossy(stdout);
    let line = text.lines().rfind(|line| !line.trim().is_empty());
    line.unwrap_or("no reason given").trim().to_owned()
}

/// `path` as an empty folder.
fn emptied(path: PathBuf) -> Result<PathBuf> {
    if path.exists() {
        fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
    }
    fs::create_dir(&path).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// What is in `path`, by name.
fn folders(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path()));
    let mut folders = entries.collect::<Result<Vec<_>>>()?;
    folders.sort();
    Ok(folders)
}

/// A copy of `model` in `folder`, hard-linked, and beside it what it stands for, as `treillage dequantize` says.
fn with_dense_twin(model: &Path, folder: &Path) -> Result<PathBuf> {
    let model = model
        .canonicalize()
        .with_context(|| model.display().to_string())?;
    let name = model.file_name().unwrap_or_default().display();
    let copy = emptied(folder.join("models").join(format!("given-{name}")))?;
    for file in folders(&model)? {
        if let Some(name) = file.file_name().filter(|_| file.is_file()) {
            let target = copy.join(name);
            fs::hard_link(&file, &target)
                .or_else(|_| fs::copy(&file, &target).map(drop))
                .with_context(|| target.display().to_string())?;
        }
    }
    let mut dense = copy.clone().into_os_string();
    dense.push("-dense");
    let driver = ["run", "--locked", "--quiet", "--package", "treillage", "--"];
    let mut command = cargo(&driver);
    run_command(
        command
            .arg("dequantize")
            .arg(&model)
            .arg("--out")
            .arg(dense),
    )?;
    Ok(copy)
}
