//! The bookstore story, phase by phase: install, inject, commit a TrafficTarget, commit a TrafficSplit, upgrade.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::cluster::{Cluster, condition};
use crate::git;
use crate::load::{Follower, Totals};
use crate::pod::has_sidecar;
use crate::shell::{output, stream, until};
use crate::summary::Summary;

/// Name of the MeshConfig.
pub const MESH: &str = "meshwright";
/// Namespaces of the story's workloads, in the order in which the upgrade moves them.
pub const NAMESPACES: [&str; 3] = ["bookbuyer", "bookstore", "bookthief"];
/// What the callers call.
pub const BOOKS: &str = "http://bookstore.bookstore:8080/books";

const FROM: &str = "0.1.0";
const TO: &str = "0.2.0";
const MINUTE: Duration = Duration::from_secs(60);

/// A running story.
#[derive(Debug)]
pub struct Story {
    /// Where it plays.
    pub cluster: Cluster,
    /// What was measured until now.
    pub summary: Summary,
}

impl Story {
    /// Begins on a cluster that runs.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub fn new(cluster: Cluster) -> anyhow::Result<Self> {
        let version: Value =
            serde_json::from_str(&output(cluster.kubectl().args(["version", "-o", "json"]))?)?;
        let kubernetes =
            version["serverVersion"]["gitVersion"].as_str().context("no server version")?.to_owned();
        Ok(Self { cluster, summary: Summary { kubernetes, ..Summary::default() } })
    }

    /// Runs a phase and notes how long it took.
    ///
    /// # Errors
    /// As the phase.
    pub fn phase<T>(
        &mut self,
        title: &str,
        body: impl FnOnce(&mut Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        println!("\n== {title}");
        let start = Instant::now();
        let result = body(self).with_context(|| title.to_owned());
        self.summary.phases.push((title.to_owned(), start.elapsed().as_secs_f64()));
        result
    }

    /// Removes what an earlier run left.
    ///
    /// # Errors
    /// As kubectl and meshwright say.
    pub fn clean(&mut self) -> anyhow::Result<()> {
        let known = output(self.cluster.kubectl().args(["get", "crd", "-o", "name"]))?;
        if known.contains("meshconfigs.meshwright.io") {
            // Its applications still run with their sidecars; they go next.
            let all = ["uninstall", "--yes", "--force", "--with-root", "--with-policies"];
            stream(self.cluster.meshwright().args(all))?;
        }
        // Nobody waits for these pods' requests any more.
        for namespace in NAMESPACES {
            let mut pods = self.cluster.kubectl();
            output(pods.args([
                "delete",
                "pods",
                "--all",
                "--grace-period=1",
                "--wait=false",
                "-n",
                namespace,
            ]))?;
        }
        let mut delete = self.cluster.kubectl();
        delete.args(["delete", "namespace", "--ignore-not-found", "--wait=true", "git"]).args(NAMESPACES);
        output(&mut delete)?;
        Ok(())
    }

    /// `meshwright install`, with the release that is upgraded later.
    ///
    /// # Errors
    /// As the command says.
    pub fn install(&mut self) -> anyhow::Result<()> {
        let mut install = self.cluster.meshwright();
        install.args(["install", "--mesh", MESH, "--version", FROM]);
        for namespace in NAMESPACES {
            install.args(["--watch", namespace]);
        }
        stream(&mut install)
    }

    /// Starts the bookstore and the git server; every pod of the bookstore gets a sidecar.
    ///
    /// # Errors
    /// When a pod does not come up or has no sidecar.
    pub fn start_applications(&mut self) -> anyhow::Result<()> {
        let cluster = &self.cluster;
        cluster.apply_file("config/demo/git/git-server.yaml")?;
        for namespace in NAMESPACES {
            cluster.apply(
                &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
                    .to_string(),
            )?;
        }
        for namespace in NAMESPACES {
            until(format!("namespace {namespace} to be part of the mesh"), MINUTE, || {
                let object = cluster.get(&["namespace", namespace])?;
                Ok((object["metadata"]["labels"]["meshwright.io/revision"] == FROM).then_some(()))
            })?;
        }
        cluster.apply_file("config/demo/app/bookstore.yaml")?;
        cluster.apply_file("config/demo/app/callers.yaml")?;
        let budgets = std::fs::read_to_string(crate::shell::root().join("config/demo/app/budgets.yaml"))?;
        let served = output(cluster.kubectl().args(["api-versions"]))?;
        let version =
            if served.lines().any(|line| line == "policy/v1") { "policy/v1" } else { "policy/v1beta1" };
        cluster.apply(&budgets.replace("policy/v1beta1", version))?;
        for (namespace, deployment) in [
            ("bookstore", "bookstore-v1"),
            ("bookstore", "bookstore-v2"),
            ("bookstore", "warehouse"),
            ("bookbuyer", "bookbuyer"),
            ("bookthief", "bookthief"),
            ("git", "git-server"),
        ] {
            cluster.rolled_out(namespace, deployment, 3 * MINUTE)?;
        }
        for namespace in NAMESPACES {
            for pod in cluster.list(&["pods", "-n", namespace])? {
                let name = &pod["metadata"]["name"];
                ensure!(has_sidecar(&pod), "pod {namespace}/{name} has no sidecar");
                println!("  {namespace}/{} has its sidecar", name.as_str().unwrap_or_default());
            }
        }
        self.summary.envoy_from = self.envoy_version()?;
        println!("  their Envoy is {}", self.summary.envoy_from);
        Ok(())
    }

    /// Points the mesh at the (still empty) repository; nothing is allowed yet.
    ///
    /// # Errors
    /// When a call is answered by anything but 403.
    pub fn connect_git(&mut self) -> anyhow::Result<()> {
        let source = json!({"name": "bookstore", "interval": "2s",
            "git": {"url": git::URL, "ref": {"branch": "main"}, "path": "policies"}});
        self.cluster.patch(&["meshconfig", MESH], &json!({"spec": {"policySources": [source]}}))?;
        let message = until("the source to say that the repository is empty", MINUTE, || {
            let object = self.cluster.get(&["policysource", "-n", "meshwright-system", "bookstore"])?;
            let ready = condition(&object, "Ready").filter(|ready| ready["status"] == "False");
            Ok(ready.and_then(|ready| ready["message"].as_str().map(str::to_owned)))
        })?;
        println!("  the source says: {message}");
        // The store's Service may have its endpoints on the node only a moment after its pods are ready.
        self.summary.buyer_status_before =
            until("the buyer to get an answer", MINUTE, || self.status("bookbuyer").map(Some))?;
        println!("  buyer: {}, thief: {}", self.summary.buyer_status_before, self.status("bookthief")?);
        let before = self.summary.buyer_status_before;
        self.summary.claim(before == 403, format!("the buyer gets 403 before any policy, not {before}"));
        Ok(())
    }

    /// Commits the TrafficTarget and waits until the buyer gets in.
    ///
    /// # Errors
    /// When it never does.
    pub fn allow_buyer(&mut self) -> anyhow::Result<()> {
        let clone = git::Clone::new(&self.cluster)?;
        let policy = include_str!("../../../config/demo/policies/1-traffic-target.yaml");
        let commit = clone.commit(&[("policies/traffic-target.yaml", Some(policy))], "Let the buyer buy")?;
        println!("  pushed {}", &commit[..12]);
        let pushed = Instant::now();
        self.summary.buyer_status = until("the buyer to be let in", MINUTE, || {
            let status = self.status("bookbuyer")?;
            Ok((status == 200).then_some(status))
        })?;
        self.summary.push_to_enforced_seconds = pushed.elapsed().as_secs_f64();
        self.applied(&commit)?;
        self.summary.thief_status_code = self.status("bookthief")?;
        println!("  buyer: {}, thief: {}", self.summary.buyer_status, self.summary.thief_status_code);
        let thief = self.summary.thief_status_code;
        self.summary.claim(thief == 403, format!("the thief stays at 403, not {thief}"));
        // Other sidecars than the one that let the buyer in may have their part of the commit a moment later.
        let bought = until("the buyer to buy", MINUTE, || {
            let buy = self.call("bookbuyer", "http://bookstore.bookstore:8080/buy", &["--method", "POST"])?;
            ensure!(buy["statuses"]["200"] == 1, "{buy}");
            Ok(Some(()))
        });
        self.summary.claim(bought.is_ok(), format!("the buyer buys (through the warehouse): {bought:?}"));
        let forbidden = self.call("bookbuyer", BOOKS, &["--method", "DELETE"])?;
        let refused = forbidden["statuses"]["403"] == 1;
        self.summary.claim(refused, format!("a method that no route names gets 403: {forbidden}"));
        Ok(())
    }

    /// Commits the TrafficSplit and measures the share of version 2.
    ///
    /// # Errors
    /// When it is never applied.
    pub fn split(&mut self) -> anyhow::Result<()> {
        const CALLS: u32 = 500;
        let clone = git::Clone::new(&self.cluster)?;
        let policy = include_str!("../../../config/demo/policies/2-traffic-split.yaml");
        let commit =
            clone.commit(&[("policies/traffic-split.yaml", Some(policy))], "Try version 2 on one in ten")?;
        println!("  pushed {}", &commit[..12]);
        self.applied(&commit)?;
        // Even shares (half of the pods are version 2) end when the sidecar has the split.
        until("the split to reach the buyer", MINUTE, || Ok((self.share_of_v2(60)? < 30.0).then_some(())))?;
        self.summary.split_percent_v2 = self.share_of_v2(CALLS)?;
        println!("  version 2 answered {:.1} % of {CALLS} calls", self.summary.split_percent_v2);
        let share = self.summary.split_percent_v2;
        // 500 draws at 10 % have a standard deviation of 1.3 %: the bounds are nearly four of them away.
        self.summary
            .claim((5.0..=15.0).contains(&share), format!("about 10 % go to version 2, not {share:.1}"));
        Ok(())
    }

    /// Starts the load generators and waits until they count.
    ///
    /// # Errors
    /// When they do not come up.
    pub fn start_load(&mut self) -> anyhow::Result<Follower> {
        self.cluster.apply_file("config/demo/app/load.yaml")?;
        self.follow("load")
    }

    /// Waits until both pods of a generator of load in the buyer's namespace run and count.
    ///
    /// # Errors
    /// When they do not come up.
    pub fn follow(&self, app: &'static str) -> anyhow::Result<Follower> {
        self.cluster.rolled_out("bookbuyer", app, 3 * MINUTE)?;
        let follower = Follower::start(&self.cluster, "bookbuyer", app);
        until(format!("both pods of {app} to count"), MINUTE, || {
            let totals = follower.totals();
            Ok((totals.generators == 2 && totals.sent > 100).then_some(()))
        })?;
        Ok(follower)
    }

    /// Edits the version and watches until the new one is in effect and the old control plane is gone.
    ///
    /// # Errors
    /// When that takes longer than 15 minutes.
    pub fn upgrade(&mut self, follower: &Follower, to: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        self.cluster.patch(&["meshconfig", MESH], &json!({"spec": {"version": to}}))?;
        let mut said = String::new();
        let mut retiring = None;
        until(format!("version {to} to be in effect"), 15 * MINUTE, || {
            let mesh = self.cluster.get(&["meshconfig", MESH])?;
            let totals = follower.totals();
            let line = self.progress(&mesh)?;
            if line.starts_with("Retiring") {
                retiring.get_or_insert_with(Instant::now);
            }
            if line != said {
                let (sent, failed) = (totals.sent, totals.failed);
                println!("  {:>4.0} s  {line}  [sent {sent} failed {failed}]", start.elapsed().as_secs_f64());
                said = line;
            }
            let revisions = mesh["status"]["controlPlane"].as_array().map_or(0, Vec::len);
            Ok((mesh["status"]["version"]["effective"] == to && revisions == 1).then_some(()))
        })?;
        let retiring = retiring.map_or(0.0, |since| since.elapsed().as_secs_f64());
        self.summary.upgrade_seconds = start.elapsed().as_secs_f64();
        println!("  took {:.0} s, {retiring:.1} s of them retiring", self.summary.upgrade_seconds);
        self.summary.envoy_to = self.envoy_version()?;
        Ok(())
    }

    /// Ends the load generators and takes their last counters.
    ///
    /// # Errors
    /// When they do not end.
    pub fn stop_load(&mut self, follower: &Follower) -> anyhow::Result<Totals> {
        let totals = self.end("load", follower)?;
        (self.summary.requests, self.summary.failed) = (totals.sent, totals.failed);
        println!("  {} requests, {} failed", totals.sent, totals.failed);
        self.summary
            .claim(totals.failed == 0, format!("no request fails during the upgrade: {:?}", totals.failures));
        self.summary.claim(totals.sent > 1000, format!("the load was a load, not {} requests", totals.sent));
        self.summary.claim(
            self.summary.envoy_from != self.summary.envoy_to,
            format!("the sidecars' Envoy changed from {}", self.summary.envoy_from),
        );
        Ok(totals)
    }

    /// Ends a generator of load and takes its last counters.
    ///
    /// # Errors
    /// When its pods do not end.
    pub fn end(&self, app: &str, follower: &Follower) -> anyhow::Result<Totals> {
        let deployment = format!("deployment/{app}");
        output(self.cluster.kubectl().args(["scale", "-n", "bookbuyer", &deployment, "--replicas=0"]))?;
        until(format!("the pods of {app} to end"), 2 * MINUTE, || {
            let left = self.cluster.list(&["pods", "-n", "bookbuyer", "-l", &format!("app={app}")])?;
            Ok(left.is_empty().then_some(()))
        })?;
        Ok(follower.totals())
    }

    /// The whole story.
    ///
    /// # Errors
    /// When a phase cannot end; claims that do not hold are in the summary.
    pub fn tell(&mut self) -> anyhow::Result<()> {
        self.phase("clean: what an earlier run left", Self::clean)?;
        self.phase("install: meshwright install", Self::install)?;
        self.phase("inject: the bookstore starts, each pod with a sidecar", Self::start_applications)?;
        self.phase("connect: MeshConfig names a Git repository", Self::connect_git)?;
        self.phase("allow: git push of a TrafficTarget", Self::allow_buyer)?;
        self.phase("split: git push of a TrafficSplit 90/10", Self::split)?;
        let follower = self.phase("load: requests from inside the mesh", Self::start_load)?;
        self.phase("upgrade: MeshConfig spec.version 0.1.0 -> 0.2.0", |story| story.upgrade(&follower, TO))?;
        self.phase("count: requests sent and failed", |story| story.stop_load(&follower))?;
        Ok(())
    }

    /// What the status of a MeshConfig and its upgrade say, in a line.
    fn progress(&self, mesh: &Value) -> anyhow::Result<String> {
        let status = &mesh["status"];
        let ready = condition(mesh, "Ready").and_then(|ready| ready["message"].as_str()).unwrap_or_default();
        let Some(name) = status["upgrade"].as_str() else { return Ok(ready.to_owned()) };
        let upgrade = self.cluster.get(&["meshupgrade", name])?;
        let text = |field: &str| upgrade["status"][field].as_str().unwrap_or_default().to_owned();
        Ok(format!("{} {} {}", text("phase"), text("progress"), text("waitingOn")))
    }

    /// Waits until a commit is the one in force and every sidecar has acknowledged it.
    ///
    /// # Errors
    /// When that takes longer than a minute.
    pub fn applied(&mut self, commit: &str) -> anyhow::Result<()> {
        until(format!("commit {commit} to be applied"), MINUTE, || {
            let object = self.cluster.get(&["policysource", "-n", "meshwright-system", "bookstore"])?;
            Ok((object["status"]["applied"]["commit"] == commit).then_some(()))
        })?;
        commit.clone_into(&mut self.summary.commit);
        Ok(())
    }

    /// The status that a caller gets for the list of books.
    ///
    /// # Errors
    /// When it gets no HTTP answer.
    pub fn status(&self, caller: &str) -> anyhow::Result<u16> {
        let answer = self.call(caller, BOOKS, &[])?;
        let statuses = answer["statuses"].as_object().context("no statuses")?;
        let status = statuses.keys().next().with_context(|| format!("{caller} got no answer: {answer}"))?;
        Ok(status.parse()?)
    }

    /// `bookstore call` in a caller's pod.
    ///
    /// # Errors
    /// As kubectl says.
    pub fn call(&self, caller: &str, url: &str, flags: &[&str]) -> anyhow::Result<Value> {
        let pod = self.cluster.pod(caller, caller)?;
        let text = self.cluster.exec(caller, &pod, caller, &[&["bookstore", "call", url], flags].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    fn share_of_v2(&self, calls: u32) -> anyhow::Result<f64> {
        let answer = self.call("bookbuyer", BOOKS, &["--count", &calls.to_string()])?;
        let of = |name: &str| answer["served_by"][name].as_f64().unwrap_or(0.0);
        let (one, two) = (of("bookstore-v1"), of("bookstore-v2"));
        ensure!(one + two > 0.0, "nobody answered: {answer}");
        Ok(100.0 * two / (one + two))
    }

    /// Version of the Envoy in the sidecar of a pod of the store.
    ///
    /// # Errors
    /// When no pod is ready, and as kubectl says.
    pub fn envoy_version(&self) -> anyhow::Result<String> {
        let pod = self.cluster.pod("bookstore", "bookstore")?;
        let text = self.cluster.exec("bookstore", &pod, "meshwright-proxy", &["envoy", "--version"])?;
        // "envoy  version: <commit>/1.38.3/Clean/RELEASE/BoringSSL"
        let version =
            text.split('/').nth(1).with_context(|| format!("`envoy --version` printed {text:?}"))?;
        Ok(version.to_owned())
    }
}
