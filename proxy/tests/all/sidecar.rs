//! The whole sidecar, with a real Envoy, real TLS and real signals. The controller is one of the test's own: it
//! answers certificate requests, and no ADS.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::json;
use time::Duration;

use crate::certificate::Life;
use crate::controller::{Behaviour, Controller};
use crate::support::{
    ENVOYS, PROGRAM, Running, Sidecar, ask_admin, envoy, get, isolated, mirror, read_message, shell, until,
    variables,
};

const OWN: &str = "127.0.0.1";

fn signs() -> Behaviour {
    Behaviour::Sign(Life::default())
}

#[test]
fn it_gets_a_certificate_starts_envoy_and_says_what_it_waits_for() {
    isolated("sidecar::it_gets_a_certificate_starts_envoy_and_says_what_it_waits_for", || {
        let controller = Controller::start(Behaviour::Refuse(401, "TokenExpired"), None);
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
        let controller = Controller::start(Behaviour::Sign(short), None);
        let sidecar = Sidecar::start(&controller, &envoy(ENVOYS[0]), &[]);
        let first = until("a certificate is there", || std::fs::read(sidecar.path("sds/identity.json")).ok());
        until("it was renewed", || {
            (std::fs::read(sidecar.path("sds/identity.json")).ok()? != first).then_some(())
        });
        assert!(controller.requests_seen() >= 2, "a new key each time");
        until("Envoy has read the new one", || {
            let (_, text) = ask_admin(&sidecar.path(""), "/certs").ok()?;
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

/// Another container of the pod shares its network, and must neither stop Envoy nor read what it is configured with.
#[test]
fn no_other_container_of_the_pod_reaches_envoys_admin_interface() {
    isolated("sidecar::no_other_container_of_the_pod_reaches_envoys_admin_interface", || {
        for version in ENVOYS {
            let controller = Controller::start(signs(), None);
            let directory = tempfile::tempdir().unwrap();
            let program = crate::redirect_network::envoy_for_sidecar(version, directory.path());
            let sidecar = Sidecar::start_as_sidecar(&controller, &program, &[]);
            sidecar.wait_reason("AwaitingController");
            let listening = shell("ss -Htln");
            assert!(!listening.contains(":15000"), "{listening}");
            let socket = sidecar.path("admin.sock");
            let about = shell(&format!("stat -c '%a %u' {}", socket.display()));
            assert_eq!(about.trim(), format!("600 {}", crate::support::USER));
            assert_eq!(ask_admin(&sidecar.path(""), "/ready").map(|(status, _)| status).ok(), Some(503));
            let as_app = format!(
                "setpriv --reuid 1000 --regid 1000 --clear-groups curl -sS --unix-socket {} http://a/ready || echo refused",
                socket.display()
            );
            assert!(shell(&as_app).contains("refused"), "only its own user may connect");
            let said: serde_json::Value = serde_json::from_str(&get("/stats").unwrap().1).unwrap();
            assert_eq!(said["envoy"]["version"], version);
            shell(&format!("kill -KILL {}", sidecar.envoy_pid()));
            assert_eq!(sidecar.exit_code(), Some(137));
            shell(&format!("umount {}/envoy", directory.path().display()));
        }
    });
}

#[test]
fn when_envoy_ends_the_container_ends_with_its_code() {
    isolated("sidecar::when_envoy_ends_the_container_ends_with_its_code", || {
        let controller = Controller::start(signs(), None);
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
        let controller = Controller::start(Behaviour::Refuse(403, "PodGone"), None);
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
        let controller = Controller::start(Behaviour::Refuse(403, "PodGone"), None);
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
            ("tls/liveness", 200),
            ("app/unknown", 404),
        ] {
            assert_eq!(get(&format!("/probe/{probe}")).map(|(status, _)| status), Some(status), "{probe}");
        }
        drop(sidecar);
    });
}

/// Answers every gRPC call with this message and status, and says what was asked.
fn grpc_server(
    message: &'static [u8],
    status: &'static str,
) -> (u16, std::sync::mpsc::Receiver<(String, Vec<u8>)>) {
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::{Bytes, Frame};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let listener = TcpListener::bind((OWN, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (send, asked) = std::sync::mpsc::channel();
    let answer = move |request: http::Request<hyper::body::Incoming>| {
        let send = send.clone();
        async move {
            let path = request.uri().path().to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let _ = send.send((path, body.to_vec()));
            let trailers =
                http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
            let frames = [Frame::data(Bytes::from_static(message)), Frame::trailers(trailers)];
            let body = StreamBody::new(tokio_stream::iter(frames.map(Ok::<_, std::convert::Infallible>)));
            Ok::<_, std::convert::Infallible>(http::Response::new(body))
        }
    };
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = hyper::service::service_fn(answer.clone());
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = connection.serve_connection(TokioIo::new(stream), service).await;
            }
        });
    });
    (port, asked)
}

#[test]
fn grpc_probes_ask_the_health_service() {
    isolated("sidecar::grpc_probes_ask_the_health_service", || {
        let controller = Controller::start(Behaviour::Refuse(403, "PodGone"), None);
        let (serving, asked) = grpc_server(&[0, 0, 0, 0, 2, 8, 1], "0");
        let (ill, _ill_asked) = grpc_server(&[0, 0, 0, 0, 2, 8, 2], "0");
        let (other, _other_asked) = grpc_server(&[], "12");
        let http = TcpListener::bind((OWN, 0)).unwrap();
        let http_port = http.local_addr().unwrap().port();
        mirror(http);
        let grpc = |port: u16| json!({ "scheme": "GRPC", "port": port, "service": "shop.Orders" });
        let probes = json!({
            "app/liveness": grpc(serving), "ill/liveness": grpc(ill), "none/liveness": grpc(other),
            "gone/liveness": grpc(1), "http/liveness": grpc(http_port),
        });
        let sidecar =
            Sidecar::start(&controller, &envoy(ENVOYS[1]), &[("MESHWRIGHT_PROBES", &probes.to_string())]);
        until("the server answers", || get("/livez"));
        let cases = [("app", 200), ("ill", 503), ("none", 503), ("gone", 502), ("http", 502)];
        for (container, status) in cases {
            let answer = get(&format!("/probe/{container}/liveness"));
            assert_eq!(answer.as_ref().map(|(status, _)| *status), Some(status), "{container}: {answer:?}");
        }
        let (path, body) = asked.recv().unwrap();
        assert_eq!(path, "/grpc.health.v1.Health/Check");
        assert!(body.ends_with(b"shop.Orders"), "{body:?}");
        drop(sidecar);
    });
}

#[test]
fn it_ends_when_the_application_has_ended_for_good() {
    isolated("sidecar::it_ends_when_the_application_has_ended_for_good", || {
        let controller = Controller::start(signs(), None);
        for behaviour in [signs(), Behaviour::Refuse(503, "NotReady")] {
            controller.behave(behaviour);
            let sidecar = Sidecar::start(&controller, &envoy(ENVOYS[1]), &[]);
            until("it runs", || get("/readyz"));
            std::fs::write(sidecar.path("pod/apps-ended"), "true").unwrap();
            assert_eq!(sidecar.exit_code(), Some(0));
        }
    });
}

#[test]
fn what_it_cannot_read_or_write_is_named() {
    isolated("sidecar::what_it_cannot_read_or_write_is_named", || {
        let controller = Controller::start(signs(), None);
        let sidecar = Sidecar::start(&controller, &envoy(ENVOYS[1]), &[]);
        sidecar.wait_reason("AwaitingController");
        drop(sidecar);

        let program = envoy(ENVOYS[1]);
        let sidecar = Sidecar::start_prepared(&controller, &program, |directory| {
            std::fs::remove_file(directory.join("token")).unwrap();
        });
        until("the missing token is named", || get("/readyz").filter(|(_, body)| body.contains("token")));
        drop(sidecar);

        let sidecar = Sidecar::start_prepared(&controller, &program, |directory| {
            let secrets = directory.join("sds");
            std::fs::create_dir(&secrets).unwrap();
            shell(&format!("mount -t tmpfs -o ro tmpfs {}", secrets.display()));
        });
        let log = until("it gives up", || Some(sidecar.log()).filter(|log| log.contains("Read-only")));
        assert!(log.contains("cannot hand the secrets to Envoy: cannot write"), "{log}");
        shell(&format!("umount {}", sidecar.path("sds").display()));
        assert_eq!(sidecar.exit_code(), Some(1));
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

        let controller = Controller::start(signs(), None);
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
