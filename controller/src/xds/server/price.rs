//! What a request costs the stream that sends it. Answers to what we sent cost nothing: we set their pace.

use crate::xds::session::Said;
use crate::xds::wire::DeltaRequest;

/// What a request costs besides a unit for each name.
const REQUEST: usize = 10;
/// What a refusal costs: what was refused is sent again piece by piece.
const REFUSAL: usize = 50;
/// Names that are looked at for one unit: of what waits, is refused or withheld, whatever the request itself names.
const LOOKS: usize = 4;

/// The price of a request that made us look at so many names.
pub(super) fn of(request: &DeltaRequest, said: Said, looked: usize) -> u32 {
    let names = request.resource_names_subscribe.len()
        + request.resource_names_unsubscribe.len()
        + request.initial_resource_versions.len();
    let price = match said {
        Said::Accepted(_) => names,
        Said::Refused(_) => names + REFUSAL + looked / LOOKS,
        Said::Nothing | Said::Foreign => names + REQUEST + looked / LOOKS,
    };
    u32::try_from(price).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::ResourceType::Cluster;

    #[test]
    fn whoever_asks_pays_for_what_it_names_and_what_we_look_at() {
        let request = |names: usize| DeltaRequest {
            resource_names_subscribe: vec![String::new(); names],
            ..DeltaRequest::default()
        };
        let prices = [
            of(&request(0), Said::Accepted(Cluster), 1_000),
            of(&request(7), Said::Accepted(Cluster), 1_000),
            of(&request(7), Said::Nothing, 0),
            of(&request(1), Said::Nothing, 4_000),
            of(&request(0), Said::Refused(Cluster), 400),
            of(&request(0), Said::Foreign, usize::MAX - 10),
        ];
        assert_eq!(prices, [0, 7, 17, 1_011, 150, u32::MAX]);
    }
}
