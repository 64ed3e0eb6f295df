//! What a sidecar, or whoever says that it is one, sends to a controller.

use std::sync::Arc;

use controller::certificates::token::{Keys, Token};
use controller::xds::served::{Pool, Served};
use controller::xds::session::{FOREIGN, Session};
use controller::xds::trial::{Canaries, Who};
use controller::xds::wire::{DeltaRequest, SemanticVersion};
use mesh::Incremental;
use prost::Message;

/// The keys of a cluster whose tokens nobody has: of a key that was thrown away.
const KEYS: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "kid": "k",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;
/// When the tokens of the corpus are good, in seconds since 1970.
const NOW: i64 = 1_800_000_000;

/// A service account's token, or a key set. Whether it speaks for a pod as long as its signature is not looked at; no
/// signature here is good.
#[must_use]
pub fn token(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let _ = Keys::parse("issuer", &text);
    let Ok(token) = Token::parse(&text) else { return false };
    let keys = Keys::parse("issuer", KEYS).unwrap_or_else(|error| panic!("the keys of this file: {error}"));
    for key in keys.keys.values() {
        assert!(token.verify_signature(key).is_err(), "nobody has the key that would have signed this");
    }
    let _ = token.check_issuer("issuer");
    token.bearer("meshwright", NOW).is_ok()
}

/// The requests of one stream, each with its length before it; every other one sees the mesh change. Whether there was
/// anything to answer.
#[must_use]
pub fn stream(data: &[u8]) -> bool {
    let mut rest = data;
    let mut answered = false;
    let mut pool = Pool::default();
    let states = states(&mut pool);
    let who = Who {
        account: "shop/client",
        proxy: "shop/client",
        envoy: SemanticVersion { major: 1, minor: 40, patch: 0 },
    };
    let mut session = Session::new(states[0].clone(), Arc::new(Canaries::default()).gate(who));
    for turn in 1.. {
        let Ok(request) = DeltaRequest::decode_length_delimited(&mut rest) else { return answered };
        let Ok(outcome) = session.on_request(&request) else { return answered };
        let mut responses = outcome.responses;
        responses.extend(session.on_snapshot(states[turn / 2 % 2].clone()));
        responses.extend(session.on_answer());
        answered |= !responses.is_empty();
        assert!(session.foreign() <= FOREIGN, "what is remembered of strangers has a limit");
        let rejections = session.rejections();
        assert!(
            rejections.first.iter().all(|rejection| rejection.error.len() <= 4096),
            "a refusal is told to people: {rejections:?}"
        );
        if rest.is_empty() {
            return answered;
        }
    }
    answered
}

/// What the client of [`super::world`] is served before and after its server has gone.
fn states(pool: &mut Pool) -> [Arc<Served>; 2] {
    let mut mesh = super::world("AllowAll");
    let mut incremental = Incremental::new();
    let audience =
        mesh.audience("shop", "client").unwrap_or_else(|error| panic!("the world's client: {error}"));
    let first = Served::first(incremental.add(&mesh, &audience), pool);
    let changed = mesh.delete(&mesh::ObjectRef::new(mesh::Kind::Pod, "shop", "server"));
    let mesh::Changed::Something(what) = changed else { panic!("a pod that goes is something") };
    let mut deltas = incremental.update(&mesh, &what);
    let second = deltas.pop().and_then(|(_, delta)| first.next(delta, pool));
    let second = second.unwrap_or_else(|| panic!("the world's client sees that its server goes"));
    [Arc::new(first), Arc::new(second)]
}
