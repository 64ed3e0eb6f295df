//! Writes the templates of `config/helm/meshwright`: `make generate`.

use std::process::Command;

use anyhow::{Context as _, ensure};
use house::chart::{NAMESPACE, PREFIX};

fn main() -> anyhow::Result<()> {
    let root = house::root();
    let cargo = std::env::var_os("CARGO").context("run this with cargo")?;
    let printed = Command::new(cargo)
        .current_dir(&root)
        .args(["run", "-q", "--bin", "meshwright", "--", "install", "--dry-run", "--output", "yaml"])
        .args(["--namespace", NAMESPACE, "--image-prefix", PREFIX])
        .output()?;
    ensure!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let printed = String::from_utf8(printed.stdout)?;
    let admission = std::fs::read_to_string(root.join("config/admission/operator.yaml"))?;
    let folder = root.join("config/helm/meshwright/templates");
    for (name, text) in house::chart::templates(&printed, env!("CARGO_PKG_VERSION"), &admission)? {
        let path = folder.join(name);
        std::fs::write(&path, text)?;
        println!("{}", path.display());
    }
    Ok(())
}
