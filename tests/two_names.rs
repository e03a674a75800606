//! `werkzeug_<sid>.sess` and `ab/<sid>` are two names of one session.

mod support;

use support::mount::{Mount, anonymous};
use support::redis::Redis;

const SID: &str = "ab0123456789012345678901234567890123456f";

#[test]
fn a_session_of_odoo_15_is_found_by_odoo_16_and_back() {
    let redis = Redis::start();
    let mount = Mount::start(&redis, "");
    mount.save_as(&mount.flat(SID), &anonymous("15")).unwrap();
    assert_eq!(mount.read(SID).unwrap(), anonymous("15"));
    let flat = mount.list(&mount.path());
    assert!(flat.iter().any(|name| name.starts_with("werkzeug_ab")), "{flat:?}");

    mount.save(SID, &anonymous("16")).unwrap();
    assert_eq!(mount.list(&mount.path()), ["ab"]);
    // An Odoo 15 is another process, whose threads have never named a shard.
    let path = mount.flat(SID);
    let read = std::thread::spawn(move || std::fs::read(path)).join().unwrap();
    assert_eq!(read.unwrap(), anonymous("16"));
}
