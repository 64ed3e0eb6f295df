//! Writes `docs/security/rights.md`: `make generate`.

fn main() -> anyhow::Result<()> {
    let root = house::root();
    let page = house::rights::page(|file| Ok(std::fs::read_to_string(root.join("config/rbac").join(file))?))?;
    let path = root.join("docs/security/rights.md");
    std::fs::write(&path, page)?;
    println!("{}", path.display());
    Ok(())
}
