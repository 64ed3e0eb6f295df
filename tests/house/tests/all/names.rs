//! Names that components agree on are in one place: the crate `names`.

use std::collections::{BTreeMap, BTreeSet};

use house::source::{Token, programs, tokens};

/// What a program may not say itself, with the reason.
fn ours(token: &Token) -> Option<&'static str> {
    let ports = [
        names::OUTBOUND_PORT,
        names::INBOUND_PORT,
        names::ENVOY_ADMIN_PORT,
        names::CONTROLLER_PORT,
        names::PROXY_PORT,
        names::GATE_PORT_A,
        names::GATE_PORT_B,
        names::PROMETHEUS_PORT,
        names::WEBHOOK_PORT,
        names::ADMIN_PORT,
    ];
    let text = token.text.replace('_', "");
    let words = text.split(|character: char| !character.is_ascii_alphanumeric());
    let mut numbers = words.filter_map(|word| word.split(['u', 'i']).next()?.parse::<u16>().ok());
    if numbers.any(|number| ports.contains(&number)) {
        return Some("a port of the mesh: use the constant of the crate `names`");
    }
    let says = token.is_text && token.text.contains(names::GROUP);
    says.then_some("the domain of labels: use a constant of the crate `names`, or `names::in_domain!`")
}

/// Whether a text looks like a fixed name of ours: a variable, a path or the name of an object.
fn is_name(token: &Token) -> bool {
    let word = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
    let text = token.text.as_str();
    let begins = ["MESHWRIGHT_", "meshwright-"].iter().any(|start| text.starts_with(start));
    let path = text.starts_with('/') && text.contains("/meshwright");
    token.is_text && word(text) && (begins || path)
}

#[test]
fn names_and_ports_are_in_one_place() {
    let mut found = Vec::new();
    let mut crates_of: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut files = 0;
    for (krate, file) in programs(&house::root()) {
        files += 1;
        let text = std::fs::read_to_string(&file).unwrap();
        for token in tokens(&text) {
            // The derive of a kind takes no constant; crds/src/kind.rs compares.
            let derive = krate == "crds" && token.of_line.trim() == format!("group = \"{}\",", names::GROUP);
            if let Some(why) = ours(&token).filter(|_| !derive) {
                found.push(format!("{}:{}: {:?} is {why}", file.display(), token.line, token.text));
            }
            if is_name(&token) {
                crates_of.entry(token.text).or_default().insert(krate.clone());
            }
        }
    }
    assert!(files > 200, "{files} files prove nothing");
    let shared = crates_of.into_iter().filter(|(_, crates)| crates.len() > 1);
    found.extend(
        shared.map(|(name, crates)| format!("{name:?} is in {crates:?}: give it to the crate `names`")),
    );
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The test above is worth what this finds.
#[test]
fn what_is_written_in_a_program_is_found() {
    let bad = [
        r#"const A: &str = "meshwright.io/mesh";"#,
        r##"const A: &str = r#"{"meshwright.io/mesh": 1}"#;"##,
        "const A: u16 = 15012;",
        "const A: u16 = 15_012_u16;",
        r#"let a = "0.0.0.0:9090";"#,
    ];
    for text in bad.map(str::to_owned) {
        assert!(tokens(&text).iter().any(|token| ours(token).is_some()), "{text}");
    }
    let good = "// :15012 and \"meshwright.io/mesh\"\n/// 15012\nlet a = 'x'; fn f<'a>(_: &'a str) {} /* 9090 */\n\
                #[cfg(test)]\nmod tests { const A: u16 = 15012; }\n";
    assert!(tokens(good).iter().all(|token| ours(token).is_none()), "{:?}", tokens(good));
    let name = tokens(
        r#"let a = ("meshwright-operator", "MESHWRIGHT_MESH", "/etc/meshwright/trust", "{x}meshwright-");"#,
    );
    assert_eq!(name.iter().filter(|token| is_name(token)).count(), 3);
}
