//! The whole sidecar, with a real Envoy, real TLS and real signals. The controller is one of the test's own: it
//! answers certificate requests, and no ADS.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use time::Duration;

use crate::certificate::{Authority, Life};
use crate::support::{
    ENVOYS, PROGRAM, Running, ask, envoy, isolated, mirror, read_message, shell, until, variables,
};

const OWN: &str = "127.0.0.1";

/// A controller that only signs.
struct Controller {
    authority: Authority,
    port: u16,
    behaviour: Mutex<Behaviour>,
    requests: Mutex<Vec<(String, String)>>,
}

#[derive(Clone)]
enum Behaviour {
    Sign(Life),
    Refuse(u16, &'static str),
}

impl Controller {
    fn start(behaviour: Behaviour) -> Arc<Self> {
        let listener = TcpListener::bind((OWN, 0)).expect("a free port");
        let authority = Authority::new();
        let (certificate, key) = authority.server("localhost");
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(certificate)],
            PrivateKeyDer::try_from(key).expect("a key"),
        )
        .expect("a certificate");
        let controller = Arc::new(Self {
            authority,
            port: listener.local_addr().expect("bound").port(),
            behaviour: Mutex::new(behaviour),
            requests: Mutex::default(),
        });
        let (server, config) = (Arc::clone(&controller), Arc::new(config));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (server, config) = (Arc::clone(&server), Arc::clone(&config));
                thread::spawn(move || {
                    let session = rustls::ServerConnection::new(config).expect("a session");
                    let mut stream = rustls::StreamOwned::new(session, stream);
                    // Envoy comes here for ADS as well, speaking HTTP/2, and finds nobody who does.
                    if stream.conn.complete_io(&mut stream.sock).is_ok()
                        && stream.conn.alpn_protocol().is_none()
                    {
                        server.serve(stream);
                    }
                });
            }
        });
        controller
    }

    fn serve(&self, mut stream: rustls::StreamOwned<rustls::ServerConnection, std::net::TcpStream>) {
        let Ok((first, headers, body)) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            read_message(&mut std::io::BufReader::new(&mut stream))
        })) else {
            return;
        };
        if first != "POST /v1/certificates HTTP/1.1" {
            return;
        }
        let token = headers.get("authorization").cloned().unwrap_or_default();
        self.requests.lock().unwrap().push((token, body.clone()));
        let (status, body) = match self.behaviour.lock().unwrap().clone() {
            Behaviour::Sign(life) => (200, self.sign(&body, life)),
            Behaviour::Refuse(status, reason) => {
                (status, json!({ "reason": reason, "message": "no" }).to_string())
            }
        };
        let _ = write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let _ = stream.flush();
    }

    fn sign(&self, csr: &str, life: Life) -> String {
        let answer = self.authority.answer(csr, "spiffe://cluster.local/ns/bookstore/sa/bookstore", life);
        String::from_utf8(answer.into_body().to_vec()).expect("text")
    }

    fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    fn keys_seen(&self) -> usize {
        let requests = self.requests.lock().unwrap();
        requests.iter().map(|(_, csr)| csr).collect::<std::collections::BTreeSet<_>>().len()
    }
}

/// A started sidecar and where its files are.
struct Sidecar {
    process: Running,
    directory: tempfile::TempDir,
}

impl Sidecar {
    fn start(controller: &Controller, program: &Path, change: &[(&'static str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("token"), "header.claims.signature\n").expect("a file");
        std::fs::write(at("ca.crt"), controller.authority.root()).expect("a file");
        let mut variables = variables();
        variables.insert("MESHWRIGHT_CONTROLLER", format!("localhost:{}", controller.port));
        variables.insert("POD_IP", OWN.to_owned());
        variables.extend(change.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let child = Command::new(PROGRAM)
            .arg("run")
            .args(["--run-dir".as_ref(), directory.path().as_os_str()])
            .args(["--token-file".as_ref(), at("token").as_os_str()])
            .args(["--trust-file".as_ref(), at("ca.crt").as_os_str()])
            .args(["--envoy".as_ref(), program.as_os_str()])
            .envs(variables)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(at("log")).expect("a file"))
            .spawn()
            .expect("the sidecar starts");
        Self { process: Running(child), directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn pid(&self) -> u32 {
        self.process.0.id()
    }

    fn envoy_pid(&self) -> u32 {
        let pid = self.pid();
        until("Envoy runs", || {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            children.split_whitespace().next()?.parse().ok()
        })
    }

    fn wait_reason(&self, reason: &str) -> Value {
        until(&format!("/readyz says {reason}; it logged: {}", self.log()), || {
            let (status, body) = get("/readyz")?;
            let body: Value = serde_json::from_str(&body).ok()?;
            (status == 503 && body["reason"] == reason).then_some(body)
        })
    }

    fn exit_code(mut self) -> Option<i32> {
        let process: &mut Child = &mut self.process.0;
        until("the sidecar ends", || process.try_wait().expect("a child")).code()
    }
}

fn get(path: &str) -> Option<(u16, String)> {
    ask(SocketAddr::new(OWN.parse().expect("an address"), 15020), "GET", path).ok()
}

fn signs() -> Behaviour {
    Behaviour::Sign(Life::default())
}

#[test]
fn it_gets_a_certificate_starts_envoy_and_says_what_it_waits_for() {
    isolated("sidecar::it_gets_a_certificate_starts_envoy_and_says_what_it_waits_for", || {
        let controller = Controller::start(Behaviour::Refuse(401, "TokenExpired"));
        let sidecar = Sidecar::start(&controller, &envoy(ENVOYS[1]), &[("MESHWRIGHT_GRACE_SECONDS", "2")]);
        let body = sidecar.wait_reason("AwaitingCertificate");
        until("it names the refusal", || get("/readyz").filter(|(_, body)| body.contains("TokenExpired")));
        assert!(body["message"].as_str().unwrap().contains("waiting for a certificate"), "{body}");
        assert!(!sidecar.path("sds/identity.json").exists());

        controller.behave(signs());
        let body = sidecar.wait_reason("AwaitingController");
        assert!(body["message"].as_str().unwrap().contains(&controller.port.to_string()), "{body}");
        assert_eq!(get("/livez").unwrap().0, 200);
        let mode = shell(&format!("stat -c %a {}", sidecar.path("sds/identity.json").display()));
        assert_eq!(mode.trim(), "600");
        until("Prometheus can read", || {
            let answer = ask("127.0.0.1:15090".parse().unwrap(), "GET", "/stats/prometheus").ok()?;
            (answer.0 == 200).then_some(())
        });
        let other = ask("127.0.0.1:15090".parse().unwrap(), "POST", "/quitquitquit").unwrap();
        assert_eq!(other.0, 404, "nothing of the admin interface but metrics");
        let requests = controller.requests.lock().unwrap().clone();
        assert!(requests.iter().all(|(token, _)| token == "Bearer header.claims.signature"), "{requests:?}");
        assert!(!sidecar.log().contains("claims"), "the token must not reach a log");

        let envoy = sidecar.envoy_pid();
        shell(&format!("kill -TERM {}", sidecar.pid()));
        assert_eq!(sidecar.exit_code(), Some(0));
        assert!(!Path::new(&format!("/proc/{envoy}")).exists(), "Envoy was stopped");
    });
}

#[test]
fn renewal_replaces_the_secrets_with_a_new_key() {
    isolated("sidecar::renewal_replaces_the_secrets_with_a_new_key", || {
        let short = Life { end: Duration::hours(1), renew: Some(Duration::seconds(1)) };
        let controller = Controller::start(Behaviour::Sign(short));
        let sidecar = Sidecar::start(&controller, &envoy(ENVOYS[0]), &[]);
        let first = until("a certificate is there", || std::fs::read(sidecar.path("sds/identity.json")).ok());
        until("it was renewed", || {
            (std::fs::read(sidecar.path("sds/identity.json")).ok()? != first).then_some(())
        });
        assert!(controller.keys_seen() >= 2, "a new key each time");
        until("Envoy has read the new one", || {
            let (_, text) = ask("127.0.0.1:15000".parse().unwrap(), "GET", "/certs").ok()?;
            text.contains("spiffe://cluster.local/ns/bookstore/sa/bookstore").then_some(())
        });
        controller.behave(Behaviour::Refuse(403, "PodGone"));
        until("the failure to renew can be seen", || {
            get("/stats").filter(|(_, body)| body.contains("PodGone"))
        });
        let (_, body) = get("/readyz").unwrap();
        assert!(!body.contains("Certificate"), "the last good certificate counts: {body}");
    });
}

#[test]
fn when_envoy_ends_the_container_ends_with_its_code() {
    isolated("sidecar::when_envoy_ends_the_container_ends_with_its_code", || {
        let controller = Controller::start(signs());
        let sidecar = Sidecar::start(&controller, &envoy(ENVOYS[1]), &[]);
        let envoy = sidecar.envoy_pid();
        shell(&format!("kill -KILL {envoy}"));
        let log = sidecar.path("log");
        until("it says so", || std::fs::read_to_string(&log).ok().filter(|log| log.contains("signal 9")));
        assert_eq!(sidecar.exit_code(), Some(137));
    });
}

#[test]
fn it_reaps_orphans_as_pid_1() {
    isolated("sidecar::it_reaps_orphans_as_pid_1", || {
        let controller = Controller::start(Behaviour::Refuse(403, "PodGone"));
        let directory = tempfile::tempdir().unwrap();
        // The sidecar becomes pid 1 of a process namespace, below `unshare`.
        let wrapper = directory.path().join("as-pid-1");
        std::fs::write(
            &wrapper,
            format!("#!/bin/sh\nexec unshare --pid --fork --kill-child {PROGRAM} \"$@\"\n"),
        )
        .unwrap();
        shell(&format!("chmod +x {}", wrapper.display()));
        std::fs::write(directory.path().join("ca.crt"), controller.authority.root()).unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let mut environment = variables();
        environment.insert("POD_IP", OWN.to_owned());
        environment.insert("MESHWRIGHT_CONTROLLER", format!("localhost:{}", controller.port));
        let child = Command::new(&wrapper)
            .args(["run", "--trust-file", &at("ca.crt"), "--token-file", &at("token"), "--run-dir", &at("")])
            .envs(environment)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let unshare = Running(child);
        until("the server answers", || get("/livez"));
        let pid = unshare.0.id();
        let first = shell(&format!("cat /proc/{pid}/task/{pid}/children")).trim().to_owned();
        shell(&format!("nsenter --pid=/proc/{first}/ns/pid sh -c '(sleep 0.05; exit 3) & exit 0'"));
        until("no zombie is left", || {
            let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children")).ok()?;
            children.trim().is_empty().then_some(())
        });
        assert_eq!(get("/livez").unwrap().0, 200);
    });
}

#[test]
fn probes_are_forwarded_with_their_status() {
    isolated("sidecar::probes_are_forwarded_with_their_status", || {
        let controller = Controller::start(Behaviour::Refuse(403, "PodGone"));
        let app = TcpListener::bind((OWN, 0)).unwrap();
        let port = app.local_addr().unwrap().port();
        mirror(app);
        let scripted = TcpListener::bind((OWN, 0)).unwrap();
        let scripted_port = scripted.local_addr().unwrap().port();
        thread::spawn(move || {
            for mut stream in scripted.incoming().flatten() {
                let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
                let (first, headers, _) = read_message(&mut reader);
                let host = headers.get("host").cloned().unwrap_or_default();
                let answer = match first.split(' ').nth(1).unwrap_or_default() {
                    "/broken" => "500 no\r\n".to_owned(),
                    "/moved" => "302 to\r\nlocation: /broken\r\n".to_owned(),
                    "/away" => "302 to\r\nlocation: http://elsewhere.example/\r\n".to_owned(),
                    "/loop" => "302 to\r\nlocation: /loop\r\n".to_owned(),
                    _ if host == "named.example" => "204 ok\r\n".to_owned(),
                    _ => "404 no\r\n".to_owned(),
                };
                let _ = write!(stream, "HTTP/1.1 {answer}content-length: 0\r\nconnection: close\r\n\r\n");
            }
        });
        let scripted = |path: &str| json!({ "scheme": "HTTP", "port": scripted_port, "path": path });
        let probes = json!({
            "app/liveness": { "scheme": "HTTP", "port": port, "path": "/live" },
            "app/readiness": { "scheme": "TCP", "port": port },
            "app/startup": { "scheme": "TCP", "port": 1 },
            "tls/liveness": { "scheme": "HTTPS", "port": controller.port },
            "broken/liveness": scripted("/broken"),
            "moved/liveness": scripted("/moved"),
            "away/liveness": scripted("/away"),
            "loop/liveness": scripted("/loop"),
            "host/liveness": { "scheme": "HTTP", "port": scripted_port, "headers": { "Host": "named.example" } },
            "evil/liveness": { "scheme": "HTTP", "port": scripted_port, "headers": { "a\r\nb": "c" } },
        });
        let sidecar =
            Sidecar::start(&controller, &envoy(ENVOYS[1]), &[("MESHWRIGHT_PROBES", &probes.to_string())]);
        until("the server answers", || get("/livez"));
        let (status, body) = get("/probe/app/liveness").unwrap();
        assert_eq!(
            (status, body.trim()),
            (200, "127.0.0.6"),
            "it comes from where the redirect lets it through"
        );
        for (probe, status) in [
            ("app/readiness", 200),
            ("app/startup", 502),
            ("broken/liveness", 500),
            ("moved/liveness", 500),
            ("away/liveness", 200),
            ("loop/liveness", 200),
            ("host/liveness", 204),
            ("evil/liveness", 502),
            ("tls/liveness", 502),
            ("app/unknown", 404),
        ] {
            assert_eq!(get(&format!("/probe/{probe}")).map(|(status, _)| status), Some(status), "{probe}");
        }
        drop(sidecar);
    });
}

#[test]
fn wait_and_drain_speak_to_the_sidecar() {
    isolated("sidecar::wait_and_drain_speak_to_the_sidecar", || {
        let verb = |arguments: &[&str]| {
            let output = Command::new(PROGRAM).args(arguments).output().expect("the program starts");
            (
                output.status.success(),
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
            )
        };
        let (fine, printed) = verb(&["wait", "--deadline-seconds", "0"]);
        assert!(!fine && printed.contains("cannot connect"), "{printed}");

        let controller = Controller::start(signs());
        let sidecar = Sidecar::start(&controller, &envoy(ENVOYS[1]), &[]);
        sidecar.wait_reason("AwaitingController");
        let (fine, printed) = verb(&["wait", "--deadline-seconds", "0"]);
        assert!(!fine && printed.contains("AwaitingController"), "{printed}");
        let (fine, printed) = verb(&["drain"]);
        assert!(fine && printed.contains("NothingServed"), "{printed}");
        let (status, body) = get("/hold").unwrap();
        assert!(status == 200 && body.contains("NothingServed"), "{body}");
        assert_eq!(get("/drain").unwrap().0, 404, "a drain is a POST");
        shell(&format!("kill -TERM {}", sidecar.pid()));
        assert_eq!(sidecar.exit_code(), Some(0), "the drain is over already");
    });
}

#[test]
fn a_wrong_environment_is_refused_with_all_reasons() {
    let output = Command::new(PROGRAM).arg("run").env_clear().output().expect("the program starts");
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        printed.contains("POD_IP is not set") && printed.contains("MESHWRIGHT_CONTROLLER is not set"),
        "{printed}"
    );
}
