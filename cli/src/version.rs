//! `meshwright version`.

use kube::ResourceExt;
use serde::Serialize;

use crate::output::{self, Format, FormatArgument};
use crate::{Outcome, cluster};

/// Arguments of `version`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Do not ask the cluster
    #[arg(long)]
    client: bool,
    #[command(flatten)]
    format: FormatArgument,
}

#[derive(Serialize)]
struct Versions {
    client: &'static str,
    meshes: Vec<MeshVersion>,
}

#[derive(Serialize)]
struct MeshVersion {
    mesh: String,
    desired: String,
    effective: String,
}

/// Runs the verb. A cluster that does not answer is no failure: the client's version is known all the same.
pub async fn run(arguments: Arguments, access: &cluster::Access) -> anyhow::Result<Outcome> {
    let mut versions = Versions { client: env!("CARGO_PKG_VERSION"), meshes: Vec::new() };
    if !arguments.client
        && let Ok(client) = cluster::connect(access).await
    {
        let meshes = cluster::meshes(&client).await.unwrap_or_default();
        versions.meshes = meshes
            .into_iter()
            .map(|mesh| MeshVersion {
                mesh: mesh.name_any(),
                effective: mesh.status.and_then(|status| status.version).unwrap_or_default().effective,
                desired: mesh.spec.version,
            })
            .collect();
    }
    match arguments.format.output {
        Format::Table => {
            let mut text = format!("meshwright {}\n", versions.client);
            for mesh in &versions.meshes {
                text.push_str(&format!(
                    "mesh {}: {} (desired {})\n",
                    mesh.mesh, mesh.effective, mesh.desired
                ));
            }
            output::print(&text)?;
        }
        format => output::print_value(&versions, format)?,
    }
    Ok(Outcome::Done)
}
