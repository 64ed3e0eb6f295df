//! No MeshPolicy is weaker than the floor of its mesh.

use crds::MeshConfigSpec;
use crds::mesh_config::{Authorization, Floor, Mtls};
use mesh::{Changed, Mesh, Object, Reason, Settings, What};
use serde_json::{Value, json};

use crate::world::*;

const MTLS: [Mtls; 2] = [Mtls::Strict, Mtls::Permissive];
const AUTHORIZATION: [Authorization; 3] =
    [Authorization::Enforce, Authorization::Audit, Authorization::AllowAll];

fn floors() -> Vec<Floor> {
    let mtls = MTLS.map(Some).into_iter().chain([None]);
    let pairs =
        mtls.flat_map(|mtls| AUTHORIZATION.map(Some).into_iter().chain([None]).map(move |a| (mtls, a)));
    pairs.map(|(mtls, authorization)| Floor { mtls, authorization }).collect()
}

fn modes(mesh: &Mesh) -> (Mtls, Authorization) {
    let audience = mesh.audience(NS, "v1").unwrap();
    (audience.mtls, audience.authorization)
}

/// The same policy for the workload, for its namespace, and for the mesh.
fn levels(spec: &Value) -> Vec<(&'static str, Object)> {
    let mut own = spec.clone();
    own["selector"] = json!({"matchLabels": {"app": "bookstore"}});
    vec![
        ("workload", policy("MeshPolicy", "p", own)),
        ("namespace", policy("MeshPolicy", "p", spec.clone())),
        ("mesh", policy_with("MeshPolicy", "p", "meshwright-system", &json!({}), spec.clone())),
    ]
}

#[test]
fn no_policy_of_any_level_is_weaker_than_the_floor_and_each_that_would_be_is_named() {
    for floor in floors() {
        for (mtls, authorization) in MTLS.iter().flat_map(|one| AUTHORIZATION.map(|two| (*one, two))) {
            for (level, object) in levels(&json!({"mtls": mtls, "authorization": authorization})) {
                let mesh = mesh_of(
                    Settings { floor, ..settings() },
                    bookstore().into_iter().chain([object.clone()]),
                );
                let expected = (
                    floor.mtls.map_or(mtls, |floor| floor.min(mtls)),
                    floor.authorization.map_or(authorization, |floor| floor.min(authorization)),
                );
                assert_eq!(modes(&mesh), expected, "{level} {floor:?}");
                let problems = mesh.problems();
                let fields: Vec<_> =
                    problems.iter().map(|one| (&one.object, one.reason, one.field.as_str())).collect();
                let object = object.reference();
                let weak = [
                    (expected.0 != mtls).then_some((&object, Reason::BelowFloor, "spec.mtls")),
                    (expected.1 != authorization).then_some((
                        &object,
                        Reason::BelowFloor,
                        "spec.authorization",
                    )),
                ];
                let mut weak: Vec<_> = weak.into_iter().flatten().collect();
                weak.sort_unstable();
                assert_eq!(fields, weak, "{level} {floor:?} {mtls:?} {authorization:?}");
            }
        }
    }
}

#[test]
fn the_mesh_itself_is_not_below_its_floor_and_a_raised_floor_binds_at_once() {
    let open = json!({"mtls": "Permissive", "authorization": "AllowAll"});
    let weak = Settings { mtls: Mtls::Permissive, authorization: Authorization::AllowAll, ..settings() };
    let mut mesh = mesh_of(weak.clone(), bookstore().into_iter().chain([policy("MeshPolicy", "open", open)]));
    assert_eq!(modes(&mesh), (Mtls::Permissive, Authorization::AllowAll));
    let floor = Floor { mtls: Some(Mtls::Strict), authorization: Some(Authorization::Audit) };
    let changed = mesh.set_settings(Settings { floor, ..weak.clone() });
    assert_eq!(changed, Changed::Something([What::Settings].into()));
    assert_eq!(modes(&mesh), (Mtls::Strict, Authorization::Audit));
    mesh.set_settings(weak);
    assert_eq!(modes(&mesh), (Mtls::Permissive, Authorization::AllowAll));
}

/// An older program writes no floor, and what a newer one writes is read by an older one, which knows none.
#[test]
fn without_a_floor_everything_is_as_it_was() {
    let read = |value: Value| serde_json::from_value::<MeshConfigSpec>(value).unwrap();
    let old = read(json!({"version": "0.1.0", "traffic": {"mtls": "Permissive"}}));
    assert_eq!(Settings::new("demo", &old).floor, Floor::default());
    assert_eq!(serde_json::to_value(&old).unwrap()["traffic"].get("floor"), None);
    let half = read(json!({"version": "0.1.0", "traffic": {"floor": {"mtls": "Strict"}}}));
    let expected = Floor { mtls: Some(Mtls::Strict), authorization: None };
    assert_eq!(Settings::new("demo", &half).floor, expected);
    let mut value = serde_json::to_value(&half).unwrap();
    value["traffic"]["floor"]["a-later-field"] = json!(1);
    assert_eq!(Settings::new("demo", &read(value)).floor, expected);
}
