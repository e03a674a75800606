//! Certificates for tests, from an authority of their own; by `openssl`.

use std::path::PathBuf;
use std::process::Command;

/// A directory of keys and certificates.
pub struct Authority(tempfile::TempDir);

impl Authority {
    pub fn new() -> Self {
        let authority = Self(tempfile::tempdir().expect("a temporary directory"));
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -keyout ca.key -out ca.pem -subj /CN=test",
        );
        authority
    }

    /// Makes NAME.key and NAME.pem.
    pub fn certify(&self, name: &str, subject: &str) {
        self.request(name, subject);
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile names -out {name}.pem"
        ));
    }

    /// The same, of a certificate that has expired.
    pub fn certify_expired(&self, name: &str, subject: &str) {
        self.request(name, subject);
        let ca = "[ca]\ndefault_ca=it\n[it]\ndatabase=index\nnew_certs_dir=.\ndefault_md=sha256\n\
                  rand_serial=yes\nunique_subject=no\npolicy=any\n[any]\ncommonName=supplied\n";
        std::fs::write(self.path("ca.conf"), ca).expect("written");
        std::fs::write(self.path("index"), "").expect("written");
        self.openssl(&format!(
            "ca -batch -config ca.conf -cert ca.pem -keyfile ca.key -in {name}.csr -out {name}.pem \
             -extfile names -notext -startdate 20200101000000Z -enddate 20200102000000Z"
        ));
    }

    fn request(&self, name: &str, subject: &str) {
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key \
             -out {name}.csr -subj /CN={name}"
        ));
        std::fs::write(self.path("names"), format!("subjectAltName={subject}\n")).expect("written");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .output()
            .expect("openssl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
