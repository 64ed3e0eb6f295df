//! One cluster, seen through `kubectl`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::shell::{output, root, stream, until};

/// A running cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Name as `tests/cluster/cluster --name` knows it.
    pub name: String,
    /// What to say to kubectl; empty means what the caller's environment says.
    pub kubeconfig: String,
    /// The cluster's own kubectl; of the caller's own cluster the one on the `PATH`.
    kubectl: PathBuf,
}

impl Cluster {
    /// Starts (or heals) the cluster with a node, builds the images and loads them; the caller's own cluster when
    /// `KUBECONFIG` names one.
    ///
    /// # Errors
    /// As the script says.
    pub fn up(name: &str) -> anyhow::Result<Self> {
        stream(script().args(["up", "--tier", "node", "--own", name]))?;
        let cluster = Self::seen(name, "--own")?;
        stream(script().args(["images", "--own", name]))?;
        Ok(cluster)
    }

    /// Starts a cluster of ours with an API server and no node, of a Kubernetes version (or `oldest`, `newest`); one that
    /// is stopped keeps its data.
    ///
    /// # Errors
    /// As the script says: when the data is of a newer version, for one.
    pub fn start_api(name: &str, kubernetes: &str) -> anyhow::Result<Self> {
        stream(script().args(["up", "--tier", "api", "--name", name, "--kubernetes", kubernetes]))?;
        Self::named(name)
    }

    /// Stops a cluster of ours; its data stays, unless that is to go too.
    ///
    /// # Errors
    /// As the script says.
    pub fn stop(name: &str, purge: bool) -> anyhow::Result<()> {
        let purge = purge.then_some("--purge");
        stream(script().args(["down", "--name", name]).args(purge))
    }

    /// A cluster of ours that runs already, whatever `KUBECONFIG` says.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn named(name: &str) -> anyhow::Result<Self> {
        Self::seen(name, "--name")
    }

    fn seen(name: &str, which: &str) -> anyhow::Result<Self> {
        let exports = output(script().args(["env", which, name]))?;
        let export = |name: &str| {
            let mut lines = exports.lines().filter_map(|line| line.strip_prefix("export "));
            lines
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .map(|value| value.trim_matches(['"', '\'']).to_owned())
        };
        let kubeconfig = export("KUBECONFIG")
            .with_context(|| format!("`tests/cluster/cluster env` printed no KUBECONFIG: {exports}"))?;
        let kubectl = export("MESHWRIGHT_KUBECTL").unwrap_or_else(|| "kubectl".to_owned()).into();
        Ok(Self { name: name.to_owned(), kubeconfig, kubectl })
    }

    /// `kubectl` for this cluster.
    #[must_use]
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// `meshwright` for this cluster.
    #[must_use]
    pub fn meshwright(&self) -> Command {
        let mut command = Command::new(binary("meshwright"));
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }

    /// containerd's client, in the node's image store.
    ///
    /// # Errors
    /// As it says.
    pub fn ctr(&self, arguments: &[&str]) -> anyhow::Result<String> {
        output(script().args(["ctr", "--name", &self.name, "--"]).args(arguments))
    }

    /// Kills the API server as a power cut would, and starts it again.
    ///
    /// # Errors
    /// As the script says.
    pub fn kill_api_server(&self) -> anyhow::Result<()> {
        output(script().args(["bounce", "--name", &self.name])).map(drop)
    }

    /// `kubectl get -o json`.
    ///
    /// # Errors
    /// As kubectl says, and when it does not print JSON.
    pub fn get(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = output(self.kubectl().arg("get").args(arguments).args(["-o", "json"]))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The items of `kubectl get -o json`.
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub fn list(&self, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
        Ok(self.get(arguments)?["items"].as_array().cloned().unwrap_or_default())
    }

    /// `kubectl apply` of YAML or JSON text.
    ///
    /// # Errors
    /// As kubectl says.
    pub fn apply(&self, text: &str) -> anyhow::Result<String> {
        let mut child = self
            .kubectl()
            .args(["apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("kubectl has no standard input")?.write_all(text.as_bytes())?;
        let result = child.wait_with_output()?;
        if !result.status.success() {
            bail!("kubectl apply: {}", String::from_utf8_lossy(&result.stderr));
        }
        Ok(String::from_utf8_lossy(&result.stdout).into_owned())
    }

    /// `kubectl apply` of a file below the repository's root.
    ///
    /// # Errors
    /// When the file cannot be read, and as kubectl says.
    pub fn apply_file(&self, path: &str) -> anyhow::Result<String> {
        let text = std::fs::read_to_string(root().join(path)).with_context(|| path.to_owned())?;
        self.apply(&text)
    }

    /// Merges JSON into an object.
    ///
    /// # Errors
    /// As kubectl says.
    pub fn patch(&self, object: &[&str], patch: &Value) -> anyhow::Result<()> {
        output(self.kubectl().arg("patch").args(object).args(["--type=merge", "-p", &patch.to_string()]))?;
        Ok(())
    }

    /// Runs a command in the first container of a Deployment's pod.
    ///
    /// # Errors
    /// As kubectl says.
    pub fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        command: &[&str],
    ) -> anyhow::Result<String> {
        output(self.kubectl().args(["exec", "-n", namespace, pod, "-c", container, "--"]).args(command))
    }

    /// Name of a running pod with the label `app=<app>` that has a sidecar and is not about to go.
    ///
    /// # Errors
    /// When there is none.
    pub fn pod(&self, namespace: &str, app: &str) -> anyhow::Result<String> {
        let pods = self.list(&["pods", "-n", namespace, "-l", &format!("app={app}")])?;
        pods.iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null() && ready(pod))
            .find_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
            .with_context(|| format!("no ready pod app={app} in namespace {namespace}"))
    }

    /// Waits until a Deployment has rolled out.
    ///
    /// # Errors
    /// When that takes longer than `limit`; the error shows the pods.
    pub fn rolled_out(&self, namespace: &str, deployment: &str, limit: Duration) -> anyhow::Result<()> {
        let waited = until(format!("deployment {namespace}/{deployment}"), limit, || {
            let object = self.get(&["deployment", "-n", namespace, deployment])?;
            let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
            let status = &object["status"];
            let current = status["observedGeneration"] == object["metadata"]["generation"];
            let all = |field: &str| status[field].as_i64().unwrap_or(0) == wanted;
            Ok((current && all("replicas") && all("updatedReplicas") && all("availableReplicas"))
                .then_some(()))
        });
        if waited.is_err() {
            let pods = output(self.kubectl().args(["describe", "pods", "-n", namespace])).unwrap_or_default();
            eprintln!("{pods}");
        }
        waited
    }

    /// Makes a local port lead to a Service (`service/name`) or pod (`pod/name`) until the value is dropped.
    ///
    /// # Errors
    /// When kubectl cannot forward.
    pub fn forward(&self, namespace: &str, target: &str, port: u16) -> anyhow::Result<Forward> {
        use std::io::BufRead as _;
        let mut child = self
            .kubectl()
            .args(["port-forward", "-n", namespace, target, &format!(":{port}")])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("kubectl has no standard output")?;
        let mut stdout = std::io::BufReader::new(stdout);
        stdout.read_line(&mut line)?;
        let local = line
            .split_once("127.0.0.1:")
            .and_then(|(_, rest)| rest.split(' ').next())
            .and_then(|port| port.parse().ok());
        let Some(port) = local else {
            let _ = child.kill();
            bail!("kubectl port-forward to {target} in {namespace} said {line:?}");
        };
        Ok(Forward { port, child, _stdout: stdout })
    }
}

/// A `kubectl port-forward`; dropping it ends it.
#[derive(Debug)]
pub struct Forward {
    /// The local port.
    pub port: u16,
    child: Child,
    /// kubectl goes on writing to it, and would end if it were closed.
    _stdout: std::io::BufReader<std::process::ChildStdout>,
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a pod's `Ready` condition is true.
#[must_use]
pub fn ready(pod: &Value) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition["status"] == "True")
}

/// A condition of an object's status.
#[must_use]
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// A binary of this workspace, built beside the one that runs.
fn binary(name: &str) -> PathBuf {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join(profile).join(name)
}

fn script() -> Command {
    Command::new(root().join("tests/cluster/cluster"))
}
