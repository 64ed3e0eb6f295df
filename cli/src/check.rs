//! `meshwright check`: whether the mesh is well; with `--pre`, whether a cluster can take one. Each line says what was
//! looked at, and what to do about it if it is not as it should be.
//!
//! ```text
//!  cluster ──reads──▶ before: may it be installed here?    ──▶ findings ──▶ table, JSON, exit code
//!                     health: is what is installed well?  (both pure)
//! ```

use serde::Serialize;

use crate::output::{self, Format, FormatArgument};
use crate::table::{Cell, Table, Tone};
use crate::{Outcome, cluster};

mod before;
mod health;

/// Arguments of `check`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Look whether a mesh can be installed, before it is
    #[arg(long)]
    pre: bool,
    /// Namespace of the control plane
    #[arg(long, default_value = crds::labels::SYSTEM_NAMESPACE)]
    namespace: String,
    /// With --pre: a namespace that shall be watched; may be given several times
    #[arg(long = "watch", value_name = "NAMESPACE", requires = "pre")]
    watch: Vec<String>,
    #[command(flatten)]
    format: FormatArgument,
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The version of the API server.
    Kubernetes,
    /// What the user may write.
    Rights,
    /// Definitions of SMI and OSM that are there.
    Definitions,
    /// What machines there are.
    Nodes,
    /// Who else injects sidecars.
    OtherMeshes,
    /// What the namespaces of the mesh allow pods.
    PodSecurity,
    /// Whether the namespaces that shall be watched are there.
    Namespaces,
    /// The operator's Deployment.
    Operator,
    /// What the MeshConfig says of itself.
    Mesh,
    /// Whether sidecars are connected and take what they are sent.
    Sidecars,
    /// Until when the root of trust is good.
    Root,
    /// Whether what the repositories hold is in force.
    Policies,
}

impl Check {
    /// As it is printed, in JSON too.
    fn name(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Rights => "rights",
            Self::Definitions => "definitions",
            Self::Nodes => "nodes",
            Self::OtherMeshes => "other-meshes",
            Self::PodSecurity => "pod-security",
            Self::Namespaces => "namespaces",
            Self::Operator => "operator",
            Self::Mesh => "mesh",
            Self::Sidecars => "sidecars",
            Self::Root => "root",
            Self::Policies => "policies",
        }
    }
}

impl Serialize for Check {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// How something is.
#[derive(Serialize, Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// As it should be.
    Passed,
    /// It works, and somebody should know.
    Warning,
    /// It does not work.
    Failed,
}

/// What was looked at, and what was found.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    check: Check,
    state: State,
    says: String,
    /// What to do; nothing where there is nothing to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    next: String,
}

impl Finding {
    /// It is as it should be.
    pub fn passed(check: Check, says: impl Into<String>) -> Self {
        Self { check, state: State::Passed, says: says.into(), next: String::new() }
    }

    /// It works, and somebody should know.
    pub fn warning(check: Check, says: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, state: State::Warning, says: says.into(), next: next.into() }
    }

    /// It does not work.
    pub fn failed(check: Check, says: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, state: State::Failed, says: says.into(), next: next.into() }
    }
}

/// Runs the verb. The answer is no when something failed; warnings alone are a yes.
pub async fn run(arguments: Arguments, access: &cluster::Access) -> anyhow::Result<Outcome> {
    let client = cluster::connect(access).await?;
    let findings = match arguments.pre {
        true => before::look(&client, &arguments.namespace, &arguments.watch).await?,
        false => health::look(&client).await?,
    };
    match arguments.format.output {
        Format::Table => output::print(&table(&findings).render(output::colour()))?,
        format => output::print_value(&findings, format)?,
    }
    let failed = findings.iter().any(|finding| finding.state == State::Failed);
    Ok(if failed { Outcome::No } else { Outcome::Done })
}

fn table(findings: &[Finding]) -> Table {
    let mut table = Table::new(["CHECK", "STATE", "FOUND", "NEXT"]);
    for finding in findings {
        let (state, tone) = match finding.state {
            State::Passed => ("Passed", Tone::Good),
            State::Warning => ("Warning", Tone::Busy),
            State::Failed => ("Failed", Tone::Bad),
        };
        table.row([
            finding.check.name().into(),
            Cell::new(state, tone),
            finding.says.as_str().into(),
            finding.next.as_str().into(),
        ]);
    }
    table
}
