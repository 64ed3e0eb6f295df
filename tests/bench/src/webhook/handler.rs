//! What the daemon does between reading a request and writing its answer, on one core: no socket, no TLS.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bench::report;
use injector::admission;
use injector::{NamespaceMeta, Settings};
use k8s_openapi::api::core::v1::Pod;
use kube::core::admission::AdmissionRequest;

use crate::{PODS, review};

/// The table.
pub fn measure(time: Duration) -> anyhow::Result<String> {
    let mut text = "\n**The handler alone**, on one core: review read, decided, patch and answer written. It makes no key \
                    and asks nobody.\n\n| pod | p50 | p99 | reviews/s |\n|---|---|---|---|\n"
        .to_owned();
    let settings = Settings::new(
        bench::control::MESH,
        crds::labels::SYSTEM_NAMESPACE,
        crate::REVISION,
        "meshwright-controller-0-1-0.meshwright-system.svc.cluster.local:15012",
        "registry.example/sidecar:0.1.0",
    );
    let namespace = NamespaceMeta::assumed(review::NAMESPACE, bench::control::MESH);
    for (containers, _) in PODS {
        let bytes = review::bytes(containers);
        let (begin, mut times) = (Instant::now(), Vec::new());
        while begin.elapsed() < time {
            let start = Instant::now();
            let request: AdmissionRequest<Pod> = admission::read(&bytes)?;
            let (response, _) = admission::mutate(&request, &namespace, &settings);
            anyhow::ensure!(
                response.allowed && response.patch.is_some(),
                "not injected: {:?}",
                response.result
            );
            black_box(serde_json::to_vec(&response.into_review())?);
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        let rate = times.len() as f64 / begin.elapsed().as_secs_f64();
        text.push_str(&format!(
            "| {} ({:.1} kB) | {:.0} µs | {:.0} µs | {rate:.0} |\n",
            review::called(containers),
            bytes.len() as f64 / 1e3,
            report::percentile(&mut times, 50),
            report::percentile(&mut times, 99),
        ));
    }
    Ok(text)
}
