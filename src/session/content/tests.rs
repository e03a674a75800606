use super::*;

const ANONYMOUS: &str = r#"{"context": {"lang": "en_US"}, "db": "shop", "debug": "", "login": null, "uid": null, "session_token": null, "_trace": []}"#;

#[test]
fn json_of_odoo() {
    let content = read(ANONYMOUS.as_bytes());
    assert_eq!(content.class, Class::Anonymous);
    assert_eq!(content.db.as_deref(), Some("shop"));
}

#[test]
fn pickle_of_odoo() {
    let bytes = b"\x80\x02}q\x00(X\x02\x00\x00\x00dbq\x01X\x03\x00\x00\x00t14q\x02X\x03\x00\x00\x00uidq\x03K\x02X\x05\x00\x00\x00loginq\x04X\x05\x00\x00\x00adminq\x05X\x0d\x00\x00\x00session_tokenq\x06Nu.";
    let content = read(bytes);
    assert_eq!(content.class, Class::Anonymous);
    assert_eq!((content.uid, content.db.as_deref()), (Some(2), Some("t14")));
    assert_eq!(read(&bytes[..bytes.len() - 1]).class, Class::Authenticated);
}
