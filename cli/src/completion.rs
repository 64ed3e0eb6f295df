//! `meshwright completion`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Outcome;

/// Arguments of `completion`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Which shell
    shell: Shell,
}

/// Prints the script.
pub fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut crate::Arguments::command(), "meshwright", &mut script);
    crate::output::print(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Done)
}
