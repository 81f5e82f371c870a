//! What `cargo metadata` says, cut down to what is asked of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::{cargo, output};

/// The packages of the dependency graph.
pub(crate) struct Metadata {
    /// By package id.
    packages: BTreeMap<String, Package>,
}

/// One package.
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its licence expression.
    pub(crate) licence: Option<String>,
    /// Whether it belongs to the workspace.
    pub(crate) member: bool,
    /// Where its manifest lies.
    pub(crate) folder: PathBuf,
    /// Ids of the packages it links or builds with, development excepted.
    dependencies: Vec<String>,
    /// And of those that its tests and benches link besides.
    development: Vec<String>,
}

impl Metadata {
    /// Asks cargo, for this machine's platform: what others need behind a `cfg` is not built here.
    pub(crate) fn load() -> Result<Self> {
        let version = output(Command::new("rustc").arg("-vV"))?;
        let host = version
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .context("rustc does not name its host")?;
        let text = output(&mut cargo(&[
            "metadata",
            "--format-version=1",
            "--locked",
            "--filter-platform",
            host,
        ]))?;
        let value = serde_json::from_str(&text).context("cargo metadata")?;
        Self::parse(&value).context("cargo metadata is not of the expected form")
    }

    fn parse(value: &Value) -> Option<Self> {
        let members: BTreeSet<&str> = strings(&value["workspace_members"])?;
        let mut packages = BTreeMap::new();
        for package in value["packages"].as_array()? {
            let id = package["id"].as_str()?;
            packages.insert(
                id.to_owned(),
                Package {
                    name: package["name"].as_str()?.to_owned(),
                    licence: package["license"].as_str().map(str::to_owned),
                    member: members.contains(id),
                    folder: PathBuf::from(package["manifest_path"].as_str()?)
                        .parent()?
                        .to_owned(),
                    dependencies: Vec::new(),
                    development: Vec::new(),
                },
            );
        }
        for node in value["resolve"]["nodes"].as_array()? {
            let package = packages.get_mut(node["id"].as_str()?)?;
            for dependency in node["deps"].as_array()? {
                let kinds = dependency["dep_kinds"].as_array()?;
                let id = dependency["pkg"].as_str()?.to_owned();
                match kinds.iter().any(|kind| kind["kind"] != "dev") {
                    true => package.dependencies.push(id),
                    false => package.development.push(id),
                }
            }
        }
        Some(Self { packages })
    }

    /// Every package.
    pub(crate) fn packages(&self) -> impl Iterator<Item = &Package> {
        self.packages.values()
    }

    /// The workspace's own packages.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages().filter(|package| package.member)
    }

    /// The packages that `package` names as dependencies.
    pub(crate) fn direct<'a>(&'a self, package: &'a Package) -> impl Iterator<Item = &'a Package> {
        package
            .dependencies
            .iter()
            .filter_map(|id| self.packages.get(id))
    }

    /// Names of all packages that end up in `package`.
    pub(crate) fn reachable<'a>(&'a self, package: &'a Package) -> BTreeSet<&'a str> {
        let reached = self.reached(&package.dependencies);
        reached.map(|package| package.name.as_str()).collect()
    }

    /// The workspace's packages that the tests and benches of `package` are built of, but for itself.
    pub(crate) fn tested<'a>(&'a self, package: &'a Package) -> impl Iterator<Item = &'a Package> {
        let named = package.dependencies.iter().chain(&package.development);
        self.reached(named).filter(|package| package.member)
    }

    /// What has the ids `first`, and all that ends up in these.
    fn reached<'a>(
        &'a self,
        first: impl IntoIterator<Item = &'a String>,
    ) -> impl Iterator<Item = &'a Package> {
        let mut reached = BTreeMap::new();
        let mut pending: Vec<&String> = first.into_iter().collect();
        while let Some(id) = pending.pop() {
            if let Some(package) = self.packages.get(id)
                && reached.insert(id, package).is_none()
            {
                pending.extend(&package.dependencies);
            }
        }
        reached.into_values()
    }
}

fn strings(value: &Value) -> Option<BTreeSet<&str>> {
    value.as_array()?.iter().map(Value::as_str).collect()
}
