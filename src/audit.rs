//! The chain from a browser to the disk: looked at link by link, and tried as a thief would.
//!
//! Each part gives [`finding::Finding`]s, and knows nothing of the others: what a browser meets
//! ([`live`]), what nginx is told ([`nginx`]) and Odoo ([`odoo_conf`]), where sessions are kept
//! ([`storage`]), the simulation of a theft ([`hijack`]) and a load ([`stress`]).

pub(crate) mod account;
pub(crate) mod browser;
pub(crate) mod finding;
pub(crate) mod hijack;
pub(crate) mod leaks;
pub(crate) mod live;
pub(crate) mod nginx;
pub(crate) mod odoo_conf;
pub(crate) mod report;
pub(crate) mod site;
pub(crate) mod storage;
pub(crate) mod stress;
pub(crate) mod tls;
