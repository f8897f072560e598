//! nftables, through netlink: one table of the family `inet` an instance, which holds everything that husk tells the packet filter.
//!
//! ```text
//! table inet husk {
//!     map hosts4  { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }    ports with hostIP
//!     map ports4  { type inet_proto . inet_service : ipv4_addr . inet_service }                ports without
//!     map hosts6, ports6                                                                        the same for IPv6
//!     chain martians    { type filter hook prerouting priority raw     what pods send to 127.0.0.0/8 is dropped, whatever route_localnet says
//!     chain prerouting  { type nat hook prerouting priority dstnat     to an address of the host: jump ports
//!     chain output      { type nat hook output priority -100           the same, but for loopback addresses
//!     chain ports       { dnat to …                                    by the maps
//!     chain postrouting { type nat hook postrouting priority srcnat    masquerade what leaves the range, and what comes back into it
//! }
//! ```
//!
//! A pod adds and removes elements of the maps, and nothing else. Each element and each rule has a comment: the pod's id, and a digest of what
//! the rule says, by which [`Table::check`] finds out what others have removed or changed.

mod expr;
pub mod table;

pub use table::{Element, Table};
