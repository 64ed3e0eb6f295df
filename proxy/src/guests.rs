//! Who is connected to the server on port 15020, and who goes when somebody new comes. Pure.
//!
//! Anybody in the cluster can connect there, and the kubelet, whose probes decide whether the application is started anew,
//! looks like anybody else until it has asked. So a connection that has not proven anything yet can always be given up for a
//! new one: the oldest of the same peer when that has its share, the oldest of whoever has most when all are too many. A
//! kubelet asks at once, and is answered long before its connection is the oldest.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Connections of one peer, and of all together.
const OF_ONE: usize = 64;
const OF_ALL: usize = 512;

/// One connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Guest(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It has not shown yet that it is more than anybody.
    Anybody,
    /// It knows what only the kubelet was told, or comes from this pod.
    Known,
}

/// What a new connection gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Welcome {
    /// A place.
    Place(Guest),
    /// The place of another one, which has to go.
    PlaceOf {
        /// Who has to go.
        gone: Guest,
        /// The new one.
        new: Guest,
    },
    /// Nothing: all others are known.
    Full,
}

/// All connections.
#[derive(Debug, Default)]
pub struct Guests {
    present: BTreeMap<Guest, (IpAddr, Standing)>,
    next: u64,
}

impl Guests {
    /// Somebody connects.
    pub fn come(&mut self, peer: IpAddr) -> Welcome {
        let peer = peer.to_canonical();
        let crowd = if self.of(peer) >= OF_ONE {
            Some(peer)
        } else if self.present.len() >= OF_ALL {
            self.largest()
        } else {
            None
        };
        let gone = match crowd {
            None => None,
            Some(crowd) => match self.oldest(crowd) {
                Some(guest) => Some(guest),
                None => return Welcome::Full,
            },
        };
        let new = Guest(self.next);
        self.next += 1;
        self.present.insert(new, (peer, Standing::Anybody));
        match gone {
            None => Welcome::Place(new),
            Some(gone) => {
                self.leave(gone);
                Welcome::PlaceOf { gone, new }
            }
        }
    }

    /// It has shown who it is.
    pub fn know(&mut self, guest: Guest) {
        if let Some((_, standing)) = self.present.get_mut(&guest) {
            *standing = Standing::Known;
        }
    }

    /// Its connection has ended.
    pub fn leave(&mut self, guest: Guest) {
        self.present.remove(&guest);
    }

    fn of(&self, peer: IpAddr) -> usize {
        self.present.values().filter(|(other, _)| *other == peer).count()
    }

    /// The peer with most connections of which one can go.
    fn largest(&self) -> Option<IpAddr> {
        let mut crowds: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for (peer, _) in self.present.values().filter(|(_, standing)| *standing == Standing::Anybody) {
            *crowds.entry(*peer).or_default() += 1;
        }
        let most = crowds.values().copied().max()?;
        // Of equal ones the one that came first.
        let anybody = self.present.values().filter(|(_, standing)| *standing == Standing::Anybody);
        anybody.map(|(peer, _)| *peer).find(|peer| crowds.get(peer) == Some(&most))
    }

    fn oldest(&self, peer: IpAddr) -> Option<Guest> {
        let mut guests = self.present.iter();
        guests.find(|(_, guest)| **guest == (peer, Standing::Anybody)).map(|(guest, _)| *guest)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn peer(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + number).into()
    }

    fn place(welcome: Welcome) -> Guest {
        match welcome {
            Welcome::Place(guest) => guest,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_peer_with_its_share_pays_with_its_own_oldest() {
        let mut guests = Guests::default();
        let first = place(guests.come(peer(1)));
        for _ in 1..OF_ONE {
            place(guests.come(peer(1)));
        }
        let other = place(guests.come(peer(2)));
        let Welcome::PlaceOf { gone, .. } = guests.come(peer(1)) else { panic!("it has its share") };
        assert_eq!(gone, first);
        assert_eq!(guests.of(peer(1)), OF_ONE);
        guests.leave(other);
        assert_eq!(guests.of(peer(2)), 0);
    }

    #[test]
    fn who_has_most_pays_when_all_are_too_many() {
        let mut guests = Guests::default();
        let kubelet = place(guests.come(peer(0)));
        let crowd: Vec<_> = (0..OF_ONE).map(|_| place(guests.come(peer(1)))).collect();
        for number in 2..=(OF_ALL - OF_ONE) as u32 {
            place(guests.come(peer(number)));
        }
        assert_eq!(guests.present.len(), OF_ALL);
        let Welcome::PlaceOf { gone, .. } = guests.come(peer(9999)) else { panic!("all are too many") };
        assert_eq!(gone, crowd[0]);
        // However many addresses a flood has: whoever waits longest goes first, and a kubelet does not wait.
        guests.know(kubelet);
        for number in 10_000..20_000 {
            assert!(matches!(guests.come(peer(number)), Welcome::PlaceOf { gone, .. } if gone != kubelet));
        }
        assert_eq!(guests.present.len(), OF_ALL);
    }

    #[test]
    fn who_is_known_stays_and_is_bounded_too() {
        let mut guests = Guests::default();
        for _ in 0..OF_ONE {
            let hook = place(guests.come(peer(1)));
            guests.know(hook);
        }
        assert_eq!(guests.come(peer(1)), Welcome::Full);
        place(guests.come(peer(2)));
        assert_eq!(guests.come("::ffff:10.0.0.1".parse().unwrap()), Welcome::Full, "the same peer");
    }
}
