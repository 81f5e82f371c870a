//! What becomes of a kernel's WGSL, as `cargo xtask shaders` shows it: an example, so that chores that have nothing to do with
//! kernels need not wait for naga.

use std::io::{IsTerminal, Write, stdout};

use anyhow::{Context, Result, bail};
use clap::Parser;
use treillage_shaders::{
    Specialization,
    check::{Checks, Validated},
    kernel, kernels,
};

/// Print a kernel as WGSL, MSL or SPIR-V, or list all kernels
#[derive(Parser)]
#[command(name = "cargo xtask shaders")]
struct Args {
    /// The kernel to print; without it, all kernels and the constants they are tested with
    name: Option<String>,
    /// Print composed WGSL, the default
    #[arg(long, group = "language")]
    wgsl: bool,
    /// Print what Metal compiles
    #[arg(long, group = "language")]
    msl: bool,
    /// Write the SPIR-V that Vulkan gets, in binary: pipe it into spirv-dis
    #[arg(long, group = "language")]
    spirv: bool,
    /// Translate with the run-time checks of untrusted modules
    #[arg(long)]
    checked: bool,
    /// Change a constant of the first set the kernel is tested with
    #[arg(long = "const", value_name = "NAME=VALUE", value_parser = constant)]
    constants: Vec<(String, String)>,
}

fn constant(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a constant is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn main() -> Result<()> {
    let args = Args::parse();
    let Some(name) = &args.name else {
        list();
        return Ok(());
    };
    let kernel = kernel(name)
        .with_context(|| format!("there is no kernel `{name}`: see `cargo xtask shaders`"))?;
    let tested = (kernel.specializations)();
    let first = tested.into_iter().next().unwrap_or_default();
    let wgsl = compose(name, &first, &args.constants)?;
    let checks = if args.checked {
        Checks::On
    } else {
        Checks::Off
    };
    let module = Validated::new(&wgsl)?;
    if args.spirv {
        let mut out = stdout().lock();
        if out.is_terminal() {
            bail!("SPIR-V is binary: pipe it into spirv-dis");
        }
        let words = module.to_spirv(checks)?;
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        out.write_all(&bytes)?;
    } else if args.msl {
        print!("{}", module.to_msl(checks)?);
    } else {
        print!("{wgsl}");
    }
    Ok(())
}

fn list() {
    for kernel in kernels() {
        println!("{}{}", kernel.name, if kernel.hot { " (hot)" } else { "" });
        for specialization in (kernel.specializations)() {
            let shown: Vec<String> = specialization
                .constants()
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            println!("  {}", shown.join(" "));
        }
    }
}

/// Composes with the constants of `first`, of which `changes` replaces some.
fn compose(name: &str, first: &Specialization, changes: &[(String, String)]) -> Result<String> {
    let mut constants = first.constants();
    for (name, value) in changes {
        constants.retain(|(known, _)| known != name);
        constants.push((name, value));
    }
    Ok(treillage_shaders::compose(name, &constants)?)
}
