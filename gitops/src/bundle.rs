//! Files of one commit → the policies they hold, and everything that is wrong. Pure.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;

use crds::policy_source::InventoryEntry;
use serde::Serialize;
use serde_json::Value;

use crate::metadata::{self, Metadata};
use crate::path::RepoPath;
use crate::policy::{Key, Policy, PolicyKind, PolicySpec};
use crate::problem::{Problem, What};
use crate::yaml::{self, Document, Format};
use crate::{judge, unknown};

/// Most files of policies in one commit.
pub const MAX_FILES: usize = 2_000;
/// Most bytes of one file.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// Most bytes of all files together.
pub const MAX_TOTAL_BYTES: usize = 16 << 20;
/// Most objects in one commit: the seal lists each, and an object of Kubernetes holds about 1.5 MB.
pub const MAX_OBJECTS: usize = 2_000;
/// After so many problems the rest is not looked at.
pub const MAX_PROBLEMS: usize = 100;

/// A commit of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Commit {
    /// 40 hexadecimal digits.
    pub id: String,
    /// First line of its message, shortened.
    pub subject: String,
    /// When it was committed, RFC 3339.
    pub time: String,
}

/// Whose objects a source may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespaces {
    /// Any namespace: the command line, which sees no cluster.
    Any,
    /// Only this one: a team's source. It is also the default namespace.
    Own(String),
    /// Those of a mesh: a platform's source.
    Mesh(Reach),
}

/// The namespaces that a platform's source may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Part of the mesh.
    pub members: BTreeSet<String>,
    /// All that there are. An object in a namespace that does not exist is left out of the bundle and keeps nobody
    /// else's from being applied: nothing runs there, so it neither opens nor closes a path.
    pub existing: BTreeSet<String>,
}

/// Whose objects a source may hold.
pub type Scope = Namespaces;

/// The policies of one commit, in a fixed order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bundle {
    /// The commit.
    pub commit: Commit,
    /// Its policies, sorted by kind, namespace and name.
    pub policies: Vec<Policy>,
    /// Left out because their namespaces do not exist, sorted.
    pub absent: Vec<Key>,
}

impl Bundle {
    /// What the seal lists: every object with its content hash, sorted.
    #[must_use]
    pub fn inventory(&self) -> Vec<InventoryEntry> {
        let mut entries: Vec<_> = self.policies.iter().map(Policy::inventory_entry).collect();
        entries.sort();
        entries
    }
}

impl fmt::Display for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "commit {} {:?}, {} objects", self.commit.id, self.commit.subject, self.policies.len())?;
        self.policies.iter().try_for_each(|p| writeln!(f, "  {} {} ({})", p.key, p.hash, p.place()))
    }
}

/// Whether a file is read at all: YAML and JSON, outside hidden folders (`.github/` belongs to tools).
#[must_use]
pub fn is_policy_file(path: &RepoPath) -> bool {
    format(path).is_some() && !path.is_hidden()
}

fn format(path: &RepoPath) -> Option<Format> {
    match path.file_name().rsplit_once('.')?.1.to_ascii_lowercase().as_str() {
        "yaml" | "yml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    }
}

/// Reads the policies of a commit.
///
/// A bundle with any problem is only good for printing: the caller applies nothing of it.
#[must_use]
pub fn parse(commit: Commit, files: &BTreeMap<RepoPath, String>, scope: &Scope) -> (Bundle, Vec<Problem>) {
    let mut parser = Parser { scope, found: BTreeMap::new(), absent: BTreeSet::new(), problems: Vec::new() };
    let files: Vec<_> = files.iter().filter(|(path, _)| is_policy_file(path)).collect();
    if parser.within_limits(&files) {
        for (path, text) in files {
            parser.file(path, text);
            if parser.problems.len() >= MAX_PROBLEMS {
                break;
            }
        }
    }
    let mut problems = parser.problems;
    problems.sort();
    problems.truncate(MAX_PROBLEMS);
    let (policies, absent) = (parser.found.into_values().collect(), parser.absent.into_iter().collect());
    (Bundle { commit, policies, absent }, problems)
}

struct Parser<'a> {
    scope: &'a Scope,
    found: BTreeMap<Key, Policy>,
    absent: BTreeSet<Key>,
    problems: Vec<Problem>,
}

/// Where an object stands, for the lines of its problems.
#[derive(Clone, Copy)]
struct Place<'a> {
    file: &'a RepoPath,
    document: &'a Document<'a>,
    /// Whether the whole document is the object, so that it can be read again with the parser's own lines.
    whole: bool,
}

impl Place<'_> {
    fn line_of(&self, key: &str) -> usize {
        if self.whole { self.document.line_of_key(key) } else { self.document.line() }
    }

    fn problem(&self, key: &str, what: What) -> Problem {
        Problem::at(self.file, self.line_of(key), what)
    }
}

impl Parser<'_> {
    fn within_limits(&mut self, files: &[(&RepoPath, &String)]) -> bool {
        let total: usize = files.iter().map(|(_, text)| text.len()).sum();
        if files.len() > MAX_FILES {
            self.problems
                .push(Problem::of_commit(What::TooMuch { of: "files of policies", limit: MAX_FILES }));
        } else if total > MAX_TOTAL_BYTES {
            self.problems
                .push(Problem::of_commit(What::TooMuch { of: "bytes of policies", limit: MAX_TOTAL_BYTES }));
        }
        self.problems.is_empty()
    }

    fn file(&mut self, path: &RepoPath, text: &str) {
        if text.len() > MAX_FILE_BYTES {
            let what = What::FileTooLarge { bytes: text.len(), limit: MAX_FILE_BYTES };
            return self.problems.push(Problem::at(path, 0, what));
        }
        let stem = path.file_name().rsplit_once('.').map_or("", |(stem, _)| stem);
        if stem.eq_ignore_ascii_case("kustomization") {
            return self.problems.push(Problem::at(path, 0, What::Kustomization));
        }
        match yaml::documents(text, format(path).unwrap_or(Format::Yaml)) {
            Ok(documents) => documents.iter().for_each(|document| self.document(path, document)),
            Err(error) => self.problems.push(Problem::at(path, error.line, What::Syntax(error.message))),
        }
    }

    fn document(&mut self, file: &RepoPath, document: &Document<'_>) {
        if self.problems.len() >= MAX_PROBLEMS {
            return;
        }
        let value = match document.untyped() {
            Ok(Value::Null) => return,
            Ok(value) => value,
            Err(error) => {
                return self.problems.push(Problem::at(file, error.line, What::Syntax(error.message)));
            }
        };
        let is_list = value.get("kind").and_then(Value::as_str) == Some("List")
            && value.get("apiVersion").and_then(Value::as_str) == Some("v1");
        match value.get("items") {
            Some(Value::Array(items)) if is_list => {
                items.iter().for_each(|item| self.object(item, Place { file, document, whole: false }));
            }
            _ => self.object(&value, Place { file, document, whole: true }),
        }
    }

    fn object(&mut self, value: &Value, place: Place<'_>) {
        let policy = match self.read(value, place) {
            Ok(policy) => policy,
            Err(problem) => return self.problems.push(problem),
        };
        if let Namespaces::Mesh(reach) = self.scope
            && !reach.existing.contains(&policy.key.namespace)
        {
            if self.absent.len() < MAX_OBJECTS {
                self.absent.insert(policy.key);
            }
        } else if let Some(first) = self.found.get(&policy.key) {
            let what = What::Duplicate { key: policy.key, other: first.place() };
            self.problems.push(Problem::at(place.file, policy.line, what));
        } else if self.found.len() >= MAX_OBJECTS {
            let what = What::TooMuch { of: "objects", limit: MAX_OBJECTS };
            if !self.problems.iter().any(|problem| problem.what == what) {
                self.problems.push(Problem::of_commit(what));
            }
        } else {
            self.found.insert(policy.key.clone(), policy);
        }
    }

    fn read(&self, value: &Value, place: Place<'_>) -> Result<Policy, Problem> {
        let kind = kind_of(value).map_err(|(key, what)| place.problem(key, what))?;
        only_known_parts(kind, value).map_err(|(key, what)| place.problem(&key, what))?;
        let metadata = metadata::read(kind.name(), value.get("metadata"))
            .map_err(|(key, what)| place.problem(&key, what))?;
        let key = self.key(kind, &metadata).map_err(|(key, what)| place.problem(key, what))?;
        let spec = spec(kind, value, place)?;
        let kept = serde_json::to_value(&spec).unwrap_or_default();
        if let Some(field) = unknown::fields(value.get("spec").unwrap_or(&Value::Null), &kept).first() {
            let last = field.rsplit(['.', ']']).next().unwrap_or(field);
            let what = What::UnknownField { kind: kind.to_string(), field: format!("spec.{field}") };
            return Err(place.problem(last, what));
        }
        if let Some((at, message)) = judge::never_right(&key, &spec) {
            return Err(place.problem(at, What::NeverRight { key, message }));
        }
        let Metadata { labels, annotations, .. } = metadata;
        let hash = spec.hash();
        let line = place.document.line();
        Ok(Policy { key, file: place.file.clone(), line, labels, annotations, spec, hash })
    }

    fn key(&self, kind: PolicyKind, metadata: &Metadata) -> Result<Key, (&'static str, What)> {
        let shortened =
            |text: &Option<String>| text.as_deref().unwrap_or("").chars().take(80).collect::<String>();
        let name = metadata.name.clone().filter(|name| metadata::is_name(name)).ok_or_else(|| {
            ("name", What::BadName { kind: kind.to_string(), found: shortened(&metadata.name) })
        })?;
        let own = match self.scope {
            Namespaces::Own(own) => Some(own),
            Namespaces::Any | Namespaces::Mesh(_) => None,
        };
        let found = metadata.namespace.as_ref().or(own);
        let namespace =
            found.cloned().filter(|namespace| metadata::is_label(namespace)).ok_or_else(|| {
                let found = shortened(&metadata.namespace);
                ("namespace", What::BadNamespace { kind: kind.to_string(), name: name.clone(), found })
            })?;
        let key = Key { kind, namespace, name };
        match self.scope {
            Namespaces::Own(own) if *own != key.namespace => {
                Err(("namespace", What::ForeignNamespace { key, allowed: own.clone() }))
            }
            Namespaces::Mesh(reach)
                if !reach.members.contains(&key.namespace) && reach.existing.contains(&key.namespace) =>
            {
                Err(("namespace", What::NamespaceNotInMesh { key }))
            }
            _ => Ok(key),
        }
    }
}

/// Which policy kind a document says it is.
fn kind_of(value: &Value) -> Result<PolicyKind, (&'static str, What)> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(shown);
    let (Some(kind), Some(api_version)) = (text("kind"), text("apiVersion")) else {
        return Err(("kind", What::NotAnObject));
    };
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    if group == "kustomize.config.k8s.io" {
        return Err(("kind", What::Kustomization));
    }
    match PolicyKind::of(group, &kind) {
        Some(known) if known.versions().contains(&version) => Ok(known),
        Some(known) => {
            let served = known.api_version();
            Err(("apiVersion", What::UnknownVersion { kind, found: api_version, served }))
        }
        None => Err(("kind", What::NotAPolicy { kind, api_version })),
    }
}

/// A word from a file, fit to be shown.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

/// `status` is the server's and in every exported object; anything else is a mistake.
fn only_known_parts(kind: PolicyKind, value: &Value) -> Result<(), (String, What)> {
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    let mut keys = value.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    match keys.find(|(key, _)| !known.contains(&key.as_str())) {
        Some((key, _)) => {
            Err((key.clone(), What::UnknownField { kind: kind.to_string(), field: shown(key) }))
        }
        None => Ok(()),
    }
}

/// Reads the spec, from the text where possible because only that knows lines.
fn spec(kind: PolicyKind, value: &Value, place: Place<'_>) -> Result<PolicySpec, Problem> {
    let schema = |message: String| What::Schema { kind: kind.to_string(), message };
    let Some(spec) = value.get("spec").filter(|spec| !spec.is_null()) else {
        return Err(place.problem("kind", schema("`spec` is missing".to_owned())));
    };
    if !place.whole {
        return PolicySpec::from_value(kind, spec.clone())
            .map_err(|e| place.problem("spec", schema(e.to_string())));
    }
    typed(kind, place.document).map_err(|error| Problem::at(place.file, error.line, schema(error.message)))
}

fn typed(kind: PolicyKind, document: &Document<'_>) -> Result<PolicySpec, yaml::YamlError> {
    #[derive(serde::Deserialize)]
    struct Envelope<S> {
        spec: S,
    }
    fn read<S: serde::de::DeserializeOwned>(document: &Document<'_>) -> Result<S, yaml::YamlError> {
        document.read::<Envelope<S>>().map(|envelope| envelope.spec)
    }
    Ok(match kind {
        PolicyKind::TrafficTarget => PolicySpec::TrafficTarget(read(document)?),
        PolicyKind::HTTPRouteGroup => PolicySpec::HTTPRouteGroup(read(document)?),
        PolicyKind::TCPRoute => PolicySpec::TCPRoute(read(document)?),
        PolicyKind::TrafficSplit => PolicySpec::TrafficSplit(read(document)?),
        PolicyKind::MeshPolicy => PolicySpec::MeshPolicy(read(document)?),
        PolicyKind::Egress => PolicySpec::Egress(read(document)?),
        PolicyKind::IngressBackend => PolicySpec::IngressBackend(read(document)?),
        PolicyKind::Retry => PolicySpec::Retry(read(document)?),
        PolicyKind::UpstreamTrafficSetting => PolicySpec::UpstreamTrafficSetting(read(document)?),
    })
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;
