//! `make demo`: the bookstore story on a real cluster, told as it happens.
//!
//! Exits with 1 when any of it is not so. The cluster is left up to look around in.

use std::process::ExitCode;
use std::time::Instant;

use e2e::cluster::Cluster;
use e2e::story::Story;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nthe demo stopped: {error:#}");
            eprintln!(
                "look around with:  eval \"$(tests/cluster/cluster env --own demo)\" && kubectl get pods -A"
            );
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<bool> {
    println!(
        "== cluster: a real Kubernetes and real images (Kubernetes and Envoy are fetched and built once)"
    );
    let start = Instant::now();
    let cluster = Cluster::up("demo")?;
    let mut story = Story::new(cluster)?;
    story.summary.phases.push(("cluster and images".to_owned(), start.elapsed().as_secs_f64()));
    let told = story.tell();
    if let Err(error) = &told {
        story.summary.broken.push(format!("{error:#}"));
    }
    let path = story.summary.write()?;
    println!("\n{}", story.summary.table());
    println!("written to {path}");
    for claim in &story.summary.broken {
        println!("NOT SO: {claim}");
    }
    told?;
    println!(
        "\nThe cluster is still up. Look around:\n\
         \x20 eval \"$(tests/cluster/cluster env --own demo)\"\n\
         \x20 kubectl get meshconfig,policysource,meshupgrade,traffictarget,trafficsplit -A\n\
         \x20 target/debug/meshwright status\n\
         \x20 target/debug/meshwright why bookthief/bookthief bookstore/bookstore --path /books\n\
         Take it down:\n\
         \x20 make demo-down"
    );
    Ok(story.summary.broken.is_empty())
}
