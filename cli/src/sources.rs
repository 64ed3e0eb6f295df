//! `meshwright sources`.

use crds::PolicySource;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use crate::output::{self, Format, FormatArgument};
use crate::status::{short_commit, tone};
use crate::table::{Cell, Table};
use crate::{Outcome, cluster};

/// Arguments of `sources`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Only this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    format: FormatArgument,
}

/// Runs the verb.
pub async fn run(arguments: Arguments, access: &cluster::Access) -> anyhow::Result<Outcome> {
    let client = cluster::connect(access).await?;
    let api: Api<PolicySource> = match &arguments.namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let sources = cluster::list(&api, &ListParams::default()).await?.unwrap_or_default();
    match arguments.format.output {
        Format::Table if sources.is_empty() => {
            output::print("There is no policy source; name one in the MeshConfig's policySources.\n")?;
        }
        Format::Table => output::print(&text(&sources, output::colour()))?,
        format => output::print_value(&sources, format)?,
    }
    Ok(Outcome::Done)
}

fn text(sources: &[PolicySource], colour: bool) -> String {
    let mut table =
        Table::new(["NAMESPACE", "NAME", "READY", "APPLIED", "ATTEMPTED", "OBJECTS", "URL", "MESSAGE"]);
    let mut problems = String::new();
    for source in sources {
        let status = source.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        table.row([
            source.namespace().unwrap_or_default().into(),
            source.name_any().into(),
            Cell::new(ready.map_or("Unknown", |ready| ready.status.as_str()), tone(ready)),
            short_commit(status.applied.as_ref().map_or("", |commit| &commit.commit)).into(),
            short_commit(status.attempted.as_ref().map_or("", |commit| &commit.commit)).into(),
            status.inventory.len().to_string().into(),
            source.spec.git.url.as_str().into(),
            ready.map_or("", |ready| ready.message.as_str()).into(),
        ]);
        for problem in &status.problems {
            problems.push_str(&format!("{}:{}: {}\n", problem.file, problem.line, problem.message));
        }
    }
    let table = table.render(colour);
    if problems.is_empty() {
        table
    } else {
        format!("{table}\nProblems of the attempted commits\n{problems}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_commit_is_shown_with_file_and_line() {
        let source: PolicySource = serde_json::from_value(serde_json::json!({
            "apiVersion": "meshwright.io/v1alpha1", "kind": "PolicySource",
            "metadata": {"name": "bookstore", "namespace": "meshwright-system"},
            "spec": {"git": {"url": "http://git.example/p.git", "ref": {}}},
            "status": {
                "attempted": {"commit": "b".repeat(40)}, "applied": {"commit": "a".repeat(40)},
                "problems": [{"file": "policies/x.yaml", "line": 3, "message": "cannot be read"}]
            }
        }))
        .unwrap();
        let expected = "\
NAMESPACE           NAME        READY     APPLIED        ATTEMPTED      OBJECTS   URL                        MESSAGE
meshwright-system   bookstore   Unknown   aaaaaaaaaaaa   bbbbbbbbbbbb   0         http://git.example/p.git   -

Problems of the attempted commits
policies/x.yaml:3: cannot be read
";
        assert_eq!(text(&[source], false), expected);
    }
}
