//! Embeds the manifests of `config/` that `meshwright install` applies, so that the command needs no files.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Folders of `config/`, in the order in which they are applied.
const FOLDERS: [&str; 2] = ["rbac", "operator"];

fn main() -> io::Result<()> {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?);
    let config = manifest.join("../config");
    let mut code = String::from("&[\n");
    for folder in FOLDERS {
        let folder = config.join(folder);
        println!("cargo::rerun-if-changed={}", folder.display());
        for file in manifests(&folder)? {
            println!("cargo::rerun-if-changed={}", file.display());
            let file = file.canonicalize()?;
            writeln!(code, "    include_str!({:?}),", file.display().to_string())
                .map_err(io::Error::other)?;
        }
    }
    code.push_str("]\n");
    let out = PathBuf::from(env::var("OUT_DIR").map_err(io::Error::other)?);
    fs::write(out.join("manifests.rs"), code)
}

/// The YAML files of a folder by name, without kustomize's own file; none when there is no such folder.
fn manifests(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let files: io::Result<Vec<_>> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut files = files?;
    files.retain(|file| {
        file.extension().is_some_and(|extension| extension == "yaml")
            && file.file_name().is_some_and(|name| name != "kustomization.yaml")
    });
    files.sort();
    Ok(files)
}
