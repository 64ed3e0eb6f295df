//! What somebody else in the cluster can do at port 15020: ask what does not matter, and nothing more, however often.
//!
//! ```text
//!  network "outside": 10.9.0.1 the neighbour, 10.9.0.3 the kubelet ──veth── this network, the pod: 10.9.0.2
//! ```

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;

use crate::certificate::Life;
use crate::controller::{Behaviour, Controller};
use crate::redirect_network::{POD, address, pod_and_outside};
use crate::support::{ENVOYS, Network, Sidecar, ask_on, envoy, get, isolated, mirror, shell, until};

const KEY: &str = "00112233445566778899aabbccddeeff";
const KUBELET: &str = "10.9.0.3";
const FLOOD: usize = 2_000;

fn server() -> SocketAddr {
    address(POD, 15020)
}

/// A connection to the sidecar from this address.
fn connect_from(source: &str) -> std::io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stream = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(address(source, 0))?;
        socket.connect(server()).await?.into_std()
    })?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Asks as the kubelet does.
fn kubelet(path: &str) -> Result<u16, String> {
    let stream = connect_from(KUBELET).map_err(|error| error.to_string())?;
    ask_on(stream, server(), "GET", path).map(|(status, _)| status).map_err(|error| error.to_string())
}

fn pod() -> (Arc<Network>, Arc<Controller>, Sidecar) {
    let outside = Arc::new(pod_and_outside());
    outside.shell(&format!("ip addr add {KUBELET}/24 dev veth0"));
    mirror(TcpListener::bind(address(POD, 8080)).unwrap());
    let controller = Controller::start(Behaviour::Sign(Life::default()), None);
    let target = json!({ "scheme": "HTTP", "port": 8080 });
    let mut probes = json!({});
    for kind in ["liveness", "pre-stop"] {
        probes[format!("{KEY}/app/{kind}")] = target.clone();
    }
    let variables = [
        ("MESHWRIGHT_PROBES", probes.to_string()),
        ("MESHWRIGHT_HOOK_KEY", KEY.to_owned()),
        ("POD_IP", POD.to_owned()),
    ];
    let change: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let sidecar = Sidecar::start(&controller, &envoy(ENVOYS[1]), &change);
    until("the server answers", || get("/livez"));
    (outside, controller, sidecar)
}

#[test]
fn only_the_kubelet_can_call_probes_and_hooks() {
    isolated("neighbours::only_the_kubelet_can_call_probes_and_hooks", || {
        let (outside, _controller, sidecar) = pod();
        let statuses = |paths: &'static [&'static str]| {
            outside.inside(move || paths.iter().map(|path| kubelet(path).unwrap()).collect::<Vec<_>>())
        };
        assert_eq!(
            statuses(&[
                "/probe/app/pre-stop",
                "/probe//app/pre-stop",
                "/probe/00112233445566778899aabbccddeefe/app/pre-stop",
                "/hold",
                "/hold?key=",
                "/hold?key=00112233445566778899aabbccddeefe",
                "/stats",
            ]),
            [403; 7]
        );
        let paths: &[&str] = &[
            "/probe/00112233445566778899aabbccddeeff/app/pre-stop",
            // As kubelets before 1.27 ask for hooks.
            "//probe/00112233445566778899aabbccddeeff/app/liveness",
            "//hold?key=00112233445566778899aabbccddeeff",
            "/livez",
        ];
        assert_eq!(statuses(paths), [200; 4]);
        assert_eq!(statuses(&["/probe/00112233445566778899aabbccddeeff/app/none"]), [404]);
        assert_eq!(get("/stats").unwrap().0, 200, "people ask from inside the pod");
        assert!(!sidecar.log().contains(KEY));
    });
}

/// A neighbour that opens one connection after the other and never finishes a request on any.
fn flood(
    outside: &Arc<Network>,
    opened: &Arc<AtomicUsize>,
    stop: &Arc<AtomicBool>,
) -> std::thread::JoinHandle<()> {
    let (outside, opened, stop) = (Arc::clone(outside), Arc::clone(opened), Arc::clone(stop));
    std::thread::spawn(move || {
        outside.inside(move || {
            let mut held: Vec<TcpStream> = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                while held.len() < FLOOD
                    && let Ok(mut stream) = TcpStream::connect(server())
                {
                    let _ = stream.write_all(b"GET /probe/app/pre-stop HTTP/1.1\r\nx-a: ");
                    let _ = stream.set_nonblocking(true);
                    held.push(stream);
                    opened.fetch_add(1, Ordering::SeqCst);
                }
                // A byte now and then, as a client that is only slow would send; what was closed is opened again.
                held.retain_mut(|stream| {
                    let open = match stream.read(&mut [0; 64]) {
                        Err(error) => error.kind() == ErrorKind::WouldBlock,
                        Ok(_) => false,
                    };
                    open && stream.write_all(b"a").is_ok()
                });
            }
        });
    })
}

#[test]
fn probes_are_answered_under_a_flood_of_a_neighbour() {
    isolated("neighbours::probes_are_answered_under_a_flood_of_a_neighbour", || {
        shell(&format!("prlimit --pid {} --nofile=16384:16384", std::process::id()));
        let (outside, _controller, sidecar) = pod();
        sidecar.wait_reason("AwaitingController");
        let (opened, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let neighbour = flood(&outside, &opened, &stop);
        until("the flood is there", || (opened.load(Ordering::SeqCst) >= FLOOD).then_some(()));
        let answers = outside.inside(|| {
            let probe = format!("/probe/{KEY}/app/liveness");
            (0..100).flat_map(|_| [kubelet(&probe), kubelet("/readyz")]).collect::<Vec<_>>()
        });
        let hold = outside.inside(|| kubelet(&format!("/hold?key={KEY}")));
        stop.store(true, Ordering::SeqCst);
        neighbour.join().unwrap();
        let expected: Vec<_> = (0..100).flat_map(|_| [Ok(200), Ok(503)]).collect();
        assert_eq!(answers, expected);
        assert_eq!(hold, Ok(200));
    });
}
