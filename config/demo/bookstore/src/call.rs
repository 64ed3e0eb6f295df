//! Single calls, and `bookstore call`.

use std::collections::BTreeMap;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde_json::json;

/// Flags of `bookstore call`.
#[derive(clap::Args)]
pub struct Call {
    /// URL to call.
    url: String,
    /// How often.
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// HTTP method.
    #[arg(long, default_value = "GET")]
    method: Method,
    /// Header `name: value`; may be repeated.
    #[arg(long)]
    header: Vec<String>,
    /// Fails unless every answer has this status.
    #[arg(long)]
    require: Option<StatusCode>,
    /// Prints the last answer's body instead of what was counted.
    #[arg(long)]
    show: bool,
}

/// What came back.
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// The whole body.
    pub body: Bytes,
}

/// Calls and prints `{"statuses": {"200": 9}, "served_by": {"bookstore-v1": 9}, "errors": {..}}`.
pub async fn run(flags: Call) -> anyhow::Result<()> {
    let headers: Vec<(String, String)> = flags
        .header
        .iter()
        .map(|header| {
            let (name, value) = header.split_once(':').with_context(|| format!("{header:?} has no colon"))?;
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        })
        .collect::<anyhow::Result<_>>()?;
    let mut statuses = BTreeMap::<String, u32>::new();
    let mut served_by = BTreeMap::<String, u32>::new();
    let mut errors = BTreeMap::<String, u32>::new();
    let mut last = Bytes::new();
    for _ in 0..flags.count {
        match once(&flags.method, &flags.url, &headers).await {
            Ok(answer) => {
                *statuses.entry(answer.status.as_u16().to_string()).or_default() += 1;
                if let Ok(body) = serde_json::from_slice::<serde_json::Value>(&answer.body)
                    && let Some(name) = body["served_by"].as_str()
                {
                    *served_by.entry(name.to_owned()).or_default() += 1;
                }
                last = answer.body;
            }
            Err(error) => *errors.entry(format!("{error:#}")).or_default() += 1,
        }
    }
    if flags.show {
        println!("{}", String::from_utf8_lossy(&last));
        return Ok(());
    }
    println!("{}", json!({"statuses": statuses, "served_by": served_by, "errors": errors}));
    if let Some(status) = flags.require {
        let good = statuses.get(&status.as_u16().to_string()).copied().unwrap_or_default();
        anyhow::ensure!(
            good == flags.count,
            "{} of {} calls were not answered by {status}",
            flags.count - good,
            flags.count
        );
    }
    Ok(())
}

/// One request on a connection of its own, within ten seconds.
pub async fn once(method: &Method, url: &str, headers: &[(String, String)]) -> anyhow::Result<Answer> {
    let uri: Uri = url.parse().with_context(|| format!("{url:?} is not a URL"))?;
    let authority = uri.authority().with_context(|| format!("{url:?} names no host"))?.clone();
    let port = authority.port_u16().unwrap_or(80);
    let mut request = Request::builder()
        .method(method)
        .uri(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(http::header::HOST, authority.as_str())
        .header(http::header::CONNECTION, "close");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let exchange = async {
        let stream = tokio::net::TcpStream::connect((authority.host(), port)).await.context("connect")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await.context("request")?;
        let status = response.status();
        let body = response.into_body().collect().await.context("body")?.to_bytes();
        connection.abort();
        anyhow::Ok(Answer { status, body })
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), exchange).await.context("no answer in 10 s")?
}
