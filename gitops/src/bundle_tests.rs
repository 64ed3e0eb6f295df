use super::*;
use crate::diff::diff;

fn commit() -> Commit {
    Commit { id: "c".repeat(40), subject: "subject".into(), time: "2026-01-01T00:00:00Z".into() }
}

fn files(files: &[(&str, &str)]) -> BTreeMap<RepoPath, String> {
    files.iter().map(|(path, text)| (RepoPath::new(path).unwrap(), (*text).to_owned())).collect()
}

fn parse_all(list: &[(&str, &str)]) -> (Bundle, Vec<Problem>) {
    parse(commit(), &files(list), &Namespaces::Any)
}

/// The only problem, as printed.
fn problem(list: &[(&str, &str)]) -> String {
    let (_, problems) = parse_all(list);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems[0].to_string()
}

const TARGET: &str = "apiVersion: access.smi-spec.io/v1alpha3
kind: TrafficTarget
metadata: {name: buyer, namespace: shop}
spec:
  destination: {kind: ServiceAccount, name: bookstore, namespace: shop}
  rules:
  - {kind: HTTPRouteGroup, name: routes, matches: [buy]}
  sources:
  - {kind: ServiceAccount, name: buyer, namespace: shop}
";
const ROUTES: &str = "apiVersion: specs.smi-spec.io/v1alpha4
kind: HTTPRouteGroup
metadata: {name: routes, namespace: shop}
spec:
  matches:
  - name: buy
    pathRegex: /buy
    methods: [GET]
    headers: [{user-agent: .*}]
";
const SPLIT: &str = "apiVersion: split.smi-spec.io/v1alpha2
kind: TrafficSplit
metadata: {name: split, namespace: shop}
spec: {service: bookstore, backends: [{service: v1, weight: 90}, {service: v2, weight: 10}]}
";

#[test]
fn a_good_commit_is_a_bundle() {
    let both = format!("# two\n---\n{TARGET}---\n{ROUTES}");
    let (bundle, problems) =
        parse_all(&[("a/b.yaml", &both), ("split.yml", SPLIT), ("README.md", "x"), (".ci/x.yaml", ":")]);
    assert_eq!(problems, []);
    let shown: Vec<_> = bundle.policies.iter().map(|p| format!("{} {}", p.key, p.place())).collect();
    let expected = [
        "TrafficTarget shop/buyer a/b.yaml:3",
        "HTTPRouteGroup shop/routes a/b.yaml:13",
        "TrafficSplit shop/split split.yml:1",
    ];
    assert_eq!(shown, expected);
    let manifest = bundle.policies[2].manifest(&BTreeMap::new(), &BTreeMap::new());
    assert_eq!(manifest["apiVersion"], "split.smi-spec.io/v1alpha4");
    assert!(bundle.to_string().contains("3 objects"));
}

#[test]
fn the_hash_is_the_one_of_the_object_in_the_cluster() {
    let (bundle, _) = parse_all(&[("a.yaml", TARGET)]);
    let in_cluster = serde_json::json!({
        "sources": [{"namespace": "shop", "name": "buyer", "kind": "ServiceAccount"}],
        "rules": [{"matches": ["buy"], "name": "routes", "kind": "HTTPRouteGroup"}],
        "destination": {"namespace": "shop", "name": "bookstore", "kind": "ServiceAccount"},
    });
    let spec: crds::TrafficTargetSpec = serde_json::from_value(in_cluster).unwrap();
    assert_eq!(bundle.policies[0].hash, crds::seal::content_hash(&spec).unwrap());
}

#[test]
fn json_and_lists_are_read() {
    let json = r#"{"apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "TCPRoute",
        "metadata": {"name": "a", "namespace": "b"}, "spec": {"matches": {"ports": [80]}}}"#;
    let list = format!("apiVersion: v1\nkind: List\nitems: [{json}]\n");
    for list in [("a.json", json), ("a.yaml", json), ("l.yaml", list.as_str())] {
        let (bundle, problems) = parse_all(&[list]);
        assert_eq!((bundle.policies.len(), problems), (1, vec![]), "{list:?}");
    }
}

#[test]
fn what_is_not_a_policy_is_refused_with_its_place() {
    let deployment = format!("{TARGET}---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: x}}\n");
    let text = problem(&[("x.yaml", &deployment)]);
    assert!(text.starts_with("x.yaml:12: Deployment (apps/v1) is not a policy"), "{text}");
    assert!(
        problem(&[("s.yaml", "apiVersion: v1\nkind: Secret\n")]).starts_with("s.yaml:2: Secret (v1) is not")
    );
    let foreign = TARGET.replace("access.smi-spec.io", "example.com");
    let text = problem(&[("f.yaml", &foreign)]);
    assert!(text.contains("TrafficTarget (example.com/v1alpha3) is not a policy"), "{text}");
    assert!(text.contains("Retry, UpstreamTrafficSetting)"), "{text}");
    assert!(problem(&[("v.yaml", "replicas: 1\n")]).contains("v.yaml:1: is not a Kubernetes object"));
    assert!(problem(&[("kustomization.yaml", "resources: []")]).contains("kustomize"));
    let old = TARGET.replace("v1alpha3", "v1alpha1");
    assert!(problem(&[("t.yaml", &old)]).contains("write apiVersion: access.smi-spec.io/v1alpha3"));
    let fake = TARGET.replace("access.smi-spec.io", "example.org");
    assert!(problem(&[("t.yaml", &fake)]).contains("is not a policy"));
    let inside = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret}\n";
    assert!(problem(&[("l.yaml", inside)]).contains("Secret (v1) is not a policy"));
}

#[test]
fn mistakes_are_named_with_file_and_line() {
    let typo =
        TARGET.replace("matches: [buy]", "machtes: [buy]").replace("  - {kind: HTTP", "\n  - {kind: HTTP");
    assert!(problem(&[("t.yaml", &typo)]).contains("TrafficTarget has no field `spec.rules[0].machtes`"));
    let typo = ROUTES.replace("pathRegex", "pathRegexp");
    assert!(problem(&[("r.yaml", &typo)]).starts_with("r.yaml:7: HTTPRouteGroup has no field"), "{typo}");
    let wrong = SPLIT.replace("weight: 90", "weight: many");
    let text = problem(&[("s.yaml", &format!("\n---\n{wrong}"))]);
    assert!(text.starts_with("s.yaml:6: TrafficSplit: "), "{text}");
    assert!(problem(&[("t.yaml", "a: [1\nb: 2\n")]).starts_with("t.yaml:"));
    assert!(
        problem(&[(
            "t.yaml",
            &TARGET.replace("name: buyer, namespace: shop}\nspec", "namespace: shop}\nspec")
        )])
        .contains("needs a `metadata.name`")
    );
    assert!(
        problem(&[("t.yaml", &SPLIT.replace(", namespace: shop", ""))])
            .contains("needs a `metadata.namespace`")
    );
    assert!(
        problem(&[("t.yaml", &SPLIT.replace("spec:", "spek:"))])
            .contains("t.yaml:4: TrafficSplit has no field `spek`")
    );
    assert!(problem(&[("t.yaml", &SPLIT[..SPLIT.find("spec:").unwrap()])]).contains("`spec` is missing"));
}

#[test]
fn what_can_never_be_right_is_refused() {
    let elsewhere = TARGET.replace("bookstore, namespace: shop", "bookstore, namespace: other");
    assert!(
        problem(&[("t.yaml", &elsewhere)]).starts_with("t.yaml:5: TrafficTarget shop/buyer: the destination")
    );
    assert!(problem(&[("s.yaml", &SPLIT.replace("weight: 10", "weight: -1"))]).contains("negative"));
    assert!(problem(&[("s.yaml", &SPLIT.replace("service: v2", "service: v1"))]).contains("named twice"));
}

#[test]
fn the_same_object_twice_names_both_places() {
    let text = problem(&[("a.yaml", TARGET), ("b.yaml", TARGET)]);
    assert_eq!(text, "b.yaml:1: TrafficTarget shop/buyer is also in a.yaml:1; remove one of them");
}

#[test]
fn a_source_reaches_only_its_namespaces() {
    let no_namespace = SPLIT.replace(", namespace: shop", "");
    let own = Namespaces::Own("team".into());
    let (bundle, problems) = parse(commit(), &files(&[("s.yaml", &no_namespace)]), &own);
    assert_eq!((bundle.policies[0].key.namespace.as_str(), problems), ("team", vec![]));
    let (_, problems) = parse(commit(), &files(&[("s.yaml", SPLIT)]), &own);
    assert_eq!(problems[0].reason(), "ForeignNamespace");
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let mesh = Namespaces::Mesh(Reach { members: set(&["other"]), existing: set(&["other", "shop"]) });
    let (_, problems) = parse(commit(), &files(&[("s.yaml", SPLIT)]), &mesh);
    assert_eq!(problems[0].reason(), "NamespaceNotInMesh");
    assert!(problems[0].to_string().contains("TrafficSplit shop/split"));
}

#[test]
fn a_namespace_that_does_not_exist_keeps_nothing_else_out() {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let here = SPLIT.replace("namespace: shop", "namespace: here");
    let gone = Namespaces::Mesh(Reach { members: set(&["here"]), existing: set(&["here"]) });
    let (bundle, problems) = parse(commit(), &files(&[("a.yaml", SPLIT), ("b.yaml", &here)]), &gone);
    assert_eq!(problems, []);
    assert_eq!(bundle.inventory().iter().map(|e| e.namespace.as_str()).collect::<Vec<_>>(), ["here"]);
    assert_eq!(
        bundle.absent.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["TrafficSplit shop/split"]
    );
    // What is wrong with it is a mistake all the same.
    let wrong = SPLIT.replace("weight: 10", "weight: -1");
    let (_, problems) = parse(commit(), &files(&[("a.yaml", &wrong), ("b.yaml", &here)]), &gone);
    assert_eq!(problems.len(), 1);
}

#[test]
fn limits_are_errors_not_surprises() {
    let big = "#".repeat(MAX_FILE_BYTES + 1);
    assert!(problem(&[("a.yaml", &big)]).contains("at most 1048576 are read"));
    let many: String = (0..=MAX_OBJECTS)
        .map(|i| format!("---\n{}", SPLIT.replace("name: split", &format!("name: s{i}"))))
        .collect();
    let half = many.len() / 2;
    let cut = half + many[half..].find("---").unwrap();
    let text = problem(&[("a.yaml", &many[..cut]), ("b.yaml", &many[cut..])]);
    assert!(text.contains("more than 2000 objects"), "{text}");
    let wrong: String = (0..500).map(|_| "---\nkind: Pod\napiVersion: v1\n").collect();
    assert_eq!(parse_all(&[("a.yaml", &wrong)]).1.len(), MAX_PROBLEMS);
}

#[test]
fn the_difference_to_the_seal_is_shown() {
    let (before, _) = parse_all(&[("t.yaml", TARGET), ("s.yaml", SPLIT)]);
    let changed = SPLIT.replace("weight: 90", "weight: 50");
    let (after, _) = parse_all(&[("r.yaml", ROUTES), ("s.yaml", &changed)]);
    let found = diff(&before.inventory(), &after);
    let expected = "+ HTTPRouteGroup shop/routes\n~ TrafficSplit shop/split\n- TrafficTarget shop/buyer\n\
                    1 added, 1 changed, 1 removed, 0 unchanged";
    assert_eq!(found.to_string(), expected);
    assert!(diff(&after.inventory(), &after).is_empty());
}

mod never_panics {
    use super::*;
    use proptest::prelude::*;

    /// Bits of YAML and of our kinds, so that the shuffled text gets past the first check now and then.
    fn piece() -> impl Strategy<Value = String> {
        let words = [
            "---\n",
            "...\n",
            "apiVersion: split.smi-spec.io/v1alpha4\n",
            "kind: TrafficSplit\n",
            "kind: List\n",
            "apiVersion: v1\n",
            "items:\n",
            "- ",
            "  ",
            "metadata: {name: a, namespace: b}\n",
            "spec:\n",
            "spec: ",
            "{service: s, backends: [{service: x, weight: 1}]}\n",
            "&a ",
            "*a ",
            "<<: *a\n",
            "!!binary ",
            "[",
            "]",
            "{",
            "}",
            "'",
            "\"",
            "\t",
            "| \n",
            ": ",
            "%YAML 9\n",
            "\u{feff}",
            "\0",
            "ü",
            "null\n",
            "~",
            "#",
        ];
        prop_oneof![3 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => any::<String>()]
    }

    proptest! {
        #[test]
        fn on_any_text(pieces in proptest::collection::vec(piece(), 0..40), json: bool) {
            let path = if json { "a.json" } else { "a.yaml" };
            let text = pieces.concat();
            let (bundle, problems) = parse_all(&[(path, &text)]);
            for problem in problems {
                let lines = text.lines().count() + 1;
                prop_assert!(problem.line <= lines, "{problem} but {lines} lines");
            }
            prop_assert_eq!(bundle.inventory().len(), bundle.policies.len());
        }

        #[test]
        fn on_a_damaged_policy(cut in 0..TARGET.len(), junk in any::<String>()) {
            let text = format!("{}{junk}{}", &TARGET[..cut], &TARGET[cut..]);
            let _ = parse_all(&[("a.yaml", &text)]);
        }
    }
}

#[test]
fn what_osm_users_wrote_comes_from_git_unchanged() {
    let text = include_str!("../../config/samples/osm.yaml");
    let (bundle, problems) = parse_all(&[("osm.yaml", text)]);
    assert_eq!(problems, []);
    let kinds: Vec<_> = bundle.policies.iter().map(|policy| policy.key.kind.name()).collect();
    assert_eq!(kinds, ["Egress", "IngressBackend", "Retry", "UpstreamTrafficSetting"]);
    // What the API server returns has the same hash.
    for policy in &bundle.policies {
        let spec = serde_json::to_value(&policy.spec).unwrap();
        assert_eq!(PolicySpec::from_value(policy.key.kind, spec).unwrap().hash(), policy.hash);
    }
    let foreign = text.replace("name: curl, namespace: default", "name: curl, namespace: other");
    let (_, problems) = parse_all(&[("osm.yaml", &foreign)]);
    let shown: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(shown.iter().all(|problem| problem.contains("move it to namespace other")), "{shown:?}");
}
