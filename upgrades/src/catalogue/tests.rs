use super::*;

fn catalogue(files: &[(&str, &str)]) -> Result<Catalogue, CatalogueError> {
    Catalogue::load(&files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect())
}

fn release(version: &str, reachable_from: &str) -> String {
    format!("version: {version}\nenvoy: 1.40.0\nkubernetes: '>=1.19'\nreachableFrom: ['{reachable_from}']\n")
}

fn four() -> Catalogue {
    let texts: Vec<_> =
        ["0.1.0", "0.2.0", "0.3.0", "1.0.0"].map(|v| (v, release(v, ">=0.1.0, <2.0.0"))).into();
    catalogue(&texts.iter().map(|(name, text)| (*name, text.as_str())).collect::<Vec<_>>()).unwrap()
}

#[test]
fn embedded_releases_parse_and_every_file_is_embedded() {
    let catalogue = Catalogue::embedded();
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/releases");
    assert_eq!(catalogue.releases().count(), std::fs::read_dir(directory).unwrap().count());
    let release = catalogue.get("0.2.0").unwrap();
    assert_eq!(release.images("meshwright/").proxy, "meshwright/proxy:0.2.0");
    assert_eq!(release.images("r/").controller, "r/controller:0.2.0");
    assert_ne!(release.envoy, catalogue.get("0.1.0").unwrap().envoy);
    assert_eq!(catalogue.reachable("0.1.0", "0.2.0"), Ok(()));
    assert_eq!(catalogue.reachable("0.2.0", "0.1.0"), Ok(()));
}

#[test]
fn unknown_version_names_the_known() {
    for version in ["9.9.9", "", "latest", "v0.2.0", "0.2", &"9".repeat(10_000)] {
        let error = Catalogue::embedded().get(version).unwrap_err();
        assert_eq!(error.known.len(), 2);
        let text = error.to_string();
        assert!(text.contains("`0.1.0`, `0.2.0`") && text.len() < 200, "{text}");
    }
}

#[test]
fn skew_is_at_most_one_minor_and_the_way_is_told() {
    let error = four().reachable("0.1.0", "0.3.0").unwrap_err();
    assert_eq!(
        error.to_string(),
        "0.3.0 is 2 minor versions from 0.1.0, and sidecars and control plane may be one apart; go through `0.2.0`"
    );
    assert_eq!(error.reason(), "SkewTooLarge");
    assert!(matches!(four().reachable("0.3.0", "0.1.0"), Err(Unreachable::Skew { .. })));
    assert_eq!(four().reachable("0.2.0", "0.3.0"), Ok(()));
    assert_eq!(four().reachable("0.3.0", "0.3.0"), Ok(()));
}

#[test]
fn refusals_are_typed() {
    let mesh = four();
    assert!(matches!(mesh.reachable("0.3.0", "1.0.0"), Err(Unreachable::Major { .. })));
    assert!(matches!(mesh.reachable("7.0.0", "1.0.0"), Err(Unreachable::UnknownFrom(_))));
    assert!(matches!(mesh.reachable("0.1.0", "7.0.0"), Err(Unreachable::UnknownTo(_))));
    let text = release("0.2.0", ">=0.1.5");
    let listed = catalogue(&[("a", &release("0.1.0", "*")), ("b", &text)]).unwrap();
    let error = listed.reachable("0.1.0", "0.2.0").unwrap_err();
    assert_eq!(error.to_string(), "0.2.0 can be reached from `>=0.1.5`, and 0.1.0 is in effect");
    assert_eq!(error.reason(), "NotReachable");
}

#[test]
fn a_bad_file_is_named() {
    let error = catalogue(&[("x.yaml", "version: [1")]).unwrap_err();
    assert_eq!(error.to_string(), "x.yaml is not a release");
    let unknown = release("0.1.0", "*") + "envoi: 1\n";
    assert!(matches!(catalogue(&[("x.yaml", &unknown)]), Err(CatalogueError::Parse { .. })));
    let twice = catalogue(&[("a", &release("0.1.0", "*")), ("b", &release("0.1.0", ">=1"))]).unwrap_err();
    assert!(matches!(twice, CatalogueError::Twice { ref file, .. } if file == "b"));
    let same = four().merge(four()).unwrap();
    assert_eq!(same, four());
}

#[test]
fn the_formats_of_pods_are_those_that_the_injector_has_written() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../injector/tests/formats");
    let number = |entry: std::io::Result<std::fs::DirEntry>| -> u32 {
        entry.unwrap().path().file_stem().unwrap().to_str().unwrap().parse().unwrap()
    };
    let written: BTreeSet<u32> = std::fs::read_dir(directory).unwrap().map(number).collect();
    let catalogue = Catalogue::embedded();
    for release in catalogue.releases() {
        assert!(release.pod_formats.is_subset(&written), "{}: {:?}", release.version, release.pod_formats);
    }
    let newest = catalogue.releases().last().unwrap();
    assert_eq!(newest.pod_formats.last(), written.last(), "what it injects it can run in");
    let text = release("0.2.1", ">=0.1.0");
    let old = catalogue_of_one(&text);
    assert!(old.get("0.2.1").unwrap().pod_formats.is_empty(), "a release that says nothing knows no format");
}

fn catalogue_of_one(text: &str) -> Catalogue {
    catalogue(&[("one.yaml", text)]).unwrap()
}
