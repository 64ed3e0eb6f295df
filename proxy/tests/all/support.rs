//! Namespaces, Envoy, tiny HTTP peers and waiting on conditions.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::controller::Controller;
use proxy::constants::PROXY_GID;
use proxy::environment::Environment;
use serde_json::Value;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_meshwright-proxy");
/// The oldest and the newest Envoy that we support.
pub const ENVOYS: [&str; 2] = ["1.36.4", "1.40.0"];
/// Not a variable of the sidecar: what its token file holds, if not the usual.
pub const TOKEN: &str = "TEST_TOKEN";
/// User id of the sidecars of the tests.
pub const USER: u32 = 20_000;
const INSIDE: &str = "MESHWRIGHT_TEST_NAMESPACE";

/// Runs a test in network, mount and process namespaces of its own, by executing this binary again in them. `name`
/// is the test's full name. Whatever it starts ends with it.
pub fn isolated(name: &str, test: impl FnOnce()) {
    if let Some(witness) = std::env::var_os(INSIDE) {
        shell("ip link set lo up");
        test();
        std::fs::write(witness, "passed").expect("a file");
        return;
    }
    let binary = std::env::current_exe().expect("this binary has a path");
    let directory = tempfile::tempdir().expect("a directory");
    let witness = directory.path().join("witness");
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(binary)
        .args(["--exact", name, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, &witness)
        .stdin(Stdio::null())
        .status()
        .expect("unshare (util-linux) can be started");
    assert!(status.success(), "{name} failed in its namespaces (they need root): {status}");
    // A misspelt name would run no test at all, successfully.
    assert!(witness.exists(), "there is no test {name}");
}

/// Runs a shell command that must succeed, and returns what it printed.
pub fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().expect("there is a shell");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {}{text}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Waits until `condition` gives something, at most two minutes: much longer than anything takes.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "waited in vain until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Path of a real Envoy, fetched once.
pub fn envoy(version: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cluster/cluster");
    let output =
        Command::new(script).args(["envoy", version]).output().expect("tests/cluster/cluster can be started");
    assert!(output.status.success(), "no Envoy {version}: {}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}

/// A child that is killed when the test is done with it.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A second network, held open by a process of its own.
pub struct Network(Running);

impl Network {
    /// A new one, with its loopback up.
    pub fn new() -> Self {
        let mut holder = Command::new("unshare");
        holder.args(["--net", "--", "sh", "-c", "ip link set lo up; read _"]);
        let mut holder = holder_with_stdin(&mut holder);
        let own = std::fs::read_link("/proc/self/ns/net").expect("own network");
        let path = format!("/proc/{}/ns/net", holder.id());
        until("the second network exists", || std::fs::read_link(&path).ok().filter(|other| *other != own));
        assert!(holder.try_wait().expect("child").is_none(), "the second network is gone already");
        Self(Running(holder))
    }

    /// Its process, as `ip link set … netns` wants it.
    pub fn pid(&self) -> u32 {
        self.0.0.id()
    }

    /// Runs a shell command in it.
    pub fn shell(&self, command: &str) -> String {
        shell(&format!("nsenter --net=/proc/{}/ns/net sh -ec '{command}'", self.pid()))
    }

    /// Runs a function in it, on a thread of its own.
    pub fn inside<T: Send + 'static>(&self, action: impl FnOnce() -> T + Send + 'static) -> T {
        let network = File::open(format!("/proc/{}/ns/net", self.pid())).expect("the network exists");
        let thread = thread::spawn(move || {
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("may enter it");
            action()
        });
        thread.join().expect("the action succeeds")
    }
}

fn holder_with_stdin(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).spawn().expect("unshare can be started")
}

/// What a request looked like to whom it reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Where the connection came from.
    pub peer: IpAddr,
    /// Values of the header `x-hop`: the proxies on the way.
    pub hops: Vec<String>,
}

/// Serves HTTP on a thread: every answer tells what the request looked like.
pub fn mirror(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || reflect(stream));
        }
    });
}

fn reflect(mut stream: TcpStream) {
    let peer = stream.peer_addr().expect("connected").ip();
    let (_, headers, _) = read_message(&mut BufReader::new(stream.try_clone().expect("a socket")));
    let hops = headers.get("x-hop").cloned().unwrap_or_default();
    let body = format!("{peer} {hops}");
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
}

/// Reads one HTTP message: first line, headers (joined by comma), body by content-length.
pub fn read_message(reader: &mut impl BufRead) -> (String, BTreeMap<String, String>, String) {
    let mut first = String::new();
    reader.read_line(&mut first).expect("a first line");
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a header");
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        let entry = headers.entry(name.to_lowercase()).or_default();
        if !entry.is_empty() {
            entry.push(',');
        }
        entry.push_str(value);
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    (first.trim().to_owned(), headers, String::from_utf8_lossy(&body).into_owned())
}

/// Asks and returns status and body, or why not.
pub fn ask(address: SocketAddr, method: &str, path: &str) -> std::io::Result<(u16, String)> {
    ask_on(TcpStream::connect_timeout(&address, Duration::from_secs(5))?, address, method, path)
}

/// The same on a connection that is there.
pub fn ask_on(
    stream: TcpStream,
    address: SocketAddr,
    method: &str,
    path: &str,
) -> std::io::Result<(u16, String)> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    talk(stream, &address.to_string(), method, path)
}

/// Asks the admin interface of the Envoy whose files lie in this directory.
pub fn ask_admin(run: &Path, path: &str) -> std::io::Result<(u16, String)> {
    let stream = UnixStream::connect(proxy::envoy::admin_path(run))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    talk(stream, "admin", "GET", path)
}

fn talk(
    mut stream: impl Read + Write,
    address: &str,
    method: &str,
    path: &str,
) -> std::io::Result<(u16, String)> {
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    )?;
    let mut reader = BufReader::new(stream);
    let mut text = String::new();
    // Up to the end of the head; an Envoy that drains leaves the connection open for seconds after its answer.
    while !text.ends_with("\r\n\r\n") && reader.read_line(&mut text)? > 0 {}
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other(format!("no HTTP answer: {text:?}")))?;
    let header = |name: &str| {
        text.lines()
            .find_map(|line| line.to_lowercase().strip_prefix(name).map(|value| value.trim().to_owned()))
    };
    let mut body = String::new();
    if let Some(length) = header("content-length:") {
        reader.take(length.parse().map_err(std::io::Error::other)?).read_to_string(&mut body)?;
    } else {
        reader.read_to_string(&mut body)?;
        if header("transfer-encoding:").is_some() {
            body = body.split("\r\n").skip(1).step_by(2).collect();
        }
    }
    Ok((status, body))
}

/// Asks a mirror.
pub fn look(address: SocketAddr) -> std::io::Result<Seen> {
    let (status, body) = ask(address, "GET", "/")?;
    let (peer, hops) = body.split_once(' ').unwrap_or((&body, ""));
    let peer = peer.parse().map_err(|_| std::io::Error::other(format!("status {status}: {body}")))?;
    Ok(Seen { peer, hops: hops.split(',').filter(|hop| !hop.is_empty()).map(str::to_owned).collect() })
}

/// The environment of an ordinary sidecar.
pub fn variables() -> BTreeMap<&'static str, String> {
    [
        ("MESHWRIGHT_MESH", "demo"),
        ("MESHWRIGHT_TRUST_DOMAIN", "cluster.local"),
        ("MESHWRIGHT_REVISION", "0.2.0"),
        ("MESHWRIGHT_CONTROLLER", "meshwright-controller-0-2-0.meshwright-system.svc.cluster.local:15012"),
        ("POD_NAME", "bookstore-7d9f-abcde"),
        ("POD_NAMESPACE", "bookstore"),
        ("POD_UID", "6f0c1c3e-0000-4000-8000-000000000001"),
        ("POD_IP", "10.9.0.2"),
        ("SERVICE_ACCOUNT", "bookstore"),
        ("MESHWRIGHT_LOG_LEVEL", "warning"),
        ("MESHWRIGHT_CONCURRENCY", "2"),
        ("MESHWRIGHT_GRACE_SECONDS", "30"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .into()
}

/// The same, parsed.
pub fn environment() -> Environment {
    let variables = variables();
    proxy::environment::parse(|name| variables.get(name).cloned()).expect("a proper environment")
}

/// A started sidecar and where its files are.
pub struct Sidecar {
    process: Running,
    directory: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Sidecar {
    /// Starts it with the user id of the tests.
    pub fn start(controller: &Controller, program: &Path, change: &[(&'static str, &str)]) -> Self {
        Self::start_with(Command::new(PROGRAM), controller, program, change, |_| {})
    }

    /// Starts it after something was done to its directory.
    pub fn start_prepared(controller: &Controller, program: &Path, prepare: impl FnOnce(&Path)) -> Self {
        Self::start_with(Command::new(PROGRAM), controller, program, &[], prepare)
    }

    /// Starts it with the user id of a sidecar, so that the redirect knows it.
    pub fn start_as_sidecar(
        controller: &Controller,
        program: &Path,
        change: &[(&'static str, &str)],
    ) -> Self {
        let mut command = Command::new(PROGRAM);
        command.uid(USER).gid(PROXY_GID);
        Self::start_with(command, controller, program, change, |_| {})
    }

    fn start_with(
        command: Command,
        controller: &Controller,
        program: &Path,
        change: &[(&'static str, &str)],
        prepare: impl FnOnce(&Path),
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let started = Self::launch(command, directory.path(), controller, program, change, prepare);
        Self { _temporary: Some(directory), ..started }
    }

    /// Starts it with the files in this directory.
    pub fn start_in(
        directory: &Path,
        controller: &Controller,
        program: &Path,
        change: &[(&'static str, &str)],
    ) -> Self {
        std::fs::create_dir_all(directory).expect("a directory");
        Self::launch(Command::new(PROGRAM), directory, controller, program, change, |_| {})
    }

    fn launch(
        mut command: Command,
        directory: &Path,
        controller: &Controller,
        program: &Path,
        change: &[(&'static str, &str)],
        prepare: impl FnOnce(&Path),
    ) -> Self {
        let at = |name: &str| directory.join(name);
        std::fs::write(at("token"), "header.claims.signature\n").expect("a file");
        std::fs::create_dir_all(at("pod")).expect("a directory");
        std::fs::write(at("pod/apps-ended"), "").expect("a file");
        std::fs::write(at("ca.crt"), controller.authority.root()).expect("a file");
        shell(&format!("chmod 777 {}", directory.display()));
        prepare(directory);
        let mut variables = variables();
        variables.insert("MESHWRIGHT_CONTROLLER", format!("localhost:{}", controller.port));
        variables.insert("POD_IP", "127.0.0.1".to_owned());
        if let Some((_, token)) = change.iter().find(|(name, _)| *name == TOKEN) {
            std::fs::write(at("token"), token).expect("a file");
        }
        variables.extend(change.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let child = command
            .arg("run")
            .args(["--run-dir".as_ref(), directory.as_os_str()])
            .args(["--token-file".as_ref(), at("token").as_os_str()])
            .args(["--trust-file".as_ref(), at("ca.crt").as_os_str()])
            .args(["--pod-dir".as_ref(), at("pod").as_os_str()])
            .args(["--envoy".as_ref(), program.as_os_str()])
            .envs(variables)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(at("log")).expect("a file"))
            .spawn()
            .expect("the sidecar starts");
        Self { process: Running(child), directory: directory.to_owned(), _temporary: None }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    pub fn envoy_pid(&self) -> u32 {
        let pid = self.pid();
        until("Envoy runs", || {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            children.split_whitespace().next()?.parse().ok()
        })
    }

    pub fn wait_reason(&self, reason: &str) -> Value {
        until(&format!("/readyz says {reason}; it logged: {}", self.log()), || {
            let (status, body) = get("/readyz")?;
            let body: Value = serde_json::from_str(&body).ok()?;
            (status == 503 && body["reason"] == reason).then_some(body)
        })
    }

    pub fn exit_code(mut self) -> Option<i32> {
        let process: &mut Child = &mut self.process.0;
        until("the sidecar ends", || process.try_wait().expect("a child")).code()
    }
}

/// Asks the sidecar, if it answers.
pub fn get(path: &str) -> Option<(u16, String)> {
    ask(SocketAddr::from(([127, 0, 0, 1], 15020)), "GET", path).ok()
}
