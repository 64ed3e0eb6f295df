//! Certificates per second: a signing request is read and verified, and a certificate is made, on every core.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use controller::certificates::authority::{Authority, Subject};
use controller::certificates::csr::SigningRequest;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};

/// Measures for so long.
pub fn measure(time: Duration) -> anyhow::Result<String> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(1);
    let authority = Authority::parse(&params.self_signed(&key)?.pem(), &key.serialize_pem())?;
    let request = CertificateParams::default().serialize_request(&KeyPair::generate()?)?.pem()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let count = AtomicU64::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores)
            .map(|_| {
                scope.spawn(|| {
                    while begin.elapsed() < time {
                        issue(&authority, &request)?;
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))??;
        }
        anyhow::Ok(())
    })?;
    #[allow(clippy::cast_precision_loss, reason = "a number for people")]
    let rate = count.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64();
    Ok(format!(
        "\n**Certificates**: {rate:.0} per second on {cores} cores (request read and its signature verified, P-256 \
         certificate signed).\n"
    ))
}

fn issue(authority: &Authority, request: &str) -> anyhow::Result<()> {
    let request = SigningRequest::parse(request.as_bytes())?;
    let subject =
        Subject { spiffe_id: "spiffe://cluster.local/ns/bench/sa/bench".to_owned(), dns_names: Vec::new() };
    let now = time::OffsetDateTime::now_utc();
    authority.sign(&subject, &request.key, Duration::from_secs(24 * 3600), now)?;
    Ok(())
}
