use super::*;

/// The documented configuration, word for word.
fn documented() -> String {
    let text = include_str!("../../../docs/several-servers.md");
    let nginx = text.split("\n## nginx\n").nth(1).unwrap();
    nginx.split("```nginx\n").nth(1).unwrap().split("```").next().unwrap().to_owned()
}

fn around() -> Surroundings {
    Surroundings {
        host: Some("shop.example.com".to_owned()),
        http_ports: vec![8069],
        gevent_ports: vec![8072],
        has_workers: true,
    }
}

fn judged(http: &str, around: &Surroundings) -> Vec<Finding> {
    let text =
        format!("# configuration file /etc/nginx/nginx.conf:\nevents {{}}\nhttp {{\n{http}\n}}\n");
    findings(&Ok(text), around)
}

/// The grade of a finding, and what was seen.
#[track_caller]
fn grade(found: &[Finding], id: &str) -> (Grade, String) {
    let one =
        found.iter().find(|one| one.id == id).unwrap_or_else(|| panic!("no {id} in {found:#?}"));
    assert_eq!(one.remedy.is_empty(), matches!(one.grade, Grade::Pass | Grade::Note), "{one:?}");
    (one.grade, one.seen.clone())
}

#[test]
fn the_documented_configuration_passes() {
    let found = judged(&documented(), &around());
    assert!(found.len() == 8 && found.iter().all(|one| one.grade == Grade::Pass), "{found:#?}");
}

/// Each fault alone, put into the documented configuration.
#[test]
fn each_fault_is_found_and_no_other() {
    let good = documented();
    for (from, to, id, words) in [
        (
            "proxy_set_header X-Forwarded-Proto $scheme;",
            "",
            "nginx.forwarded-proto",
            "location /websocket",
        ),
        (
            "X-Forwarded-Proto $scheme",
            "X-Forwarded-Proto http",
            "nginx.forwarded-proto",
            "says 'http'",
        ),
        ("proxy_set_header X-Forwarded-Host $host;", "", "nginx.forwarded-host", "not set"),
        (
            "location /websocket   { proxy_pass http://odoo_evented; }",
            "location /websocket { proxy_pass http://odoo; }",
            "nginx.websocket",
            "does not lead to the evented process (port 8072)",
        ),
        ("proxy_set_header Upgrade $http_upgrade;", "", "nginx.websocket", "lacks Upgrade"),
        (
            "return 301 https://$host$request_uri;",
            "location / { proxy_pass http://odoo; }",
            "nginx.redirect",
            "plain HTTP",
        ),
        ("listen 443 ssl;", "listen 443 ssl; listen 8080;", "nginx.redirect", "a port without TLS"),
        ("max-age=31536000", "max-age=3600", "nginx.hsts", "0 days"),
        ("add_header Strict", "add_header X-Other", "nginx.hsts", "not set"),
        (
            "expires 1d;",
            "expires 1d; add_header X-A b;",
            "nginx.hsts",
            "location ~ ^/[^/]+/static/",
        ),
        ("secure samesite=lax", "samesite=lax", "nginx.cookie-flags", "Secure is not added"),
        ("secure samesite=lax", "secure", "nginx.cookie-flags", "SameSite is not added"),
        (
            "proxy_cookie_flags session_id",
            "proxy_cookie_flags other",
            "nginx.cookie-flags",
            "Secure",
        ),
        ("TLSv1.2 TLSv1.3", "TLSv1.1 TLSv1.2", "nginx.protocols", "TLSv1.1 allowed"),
    ] {
        assert!(good.contains(from), "{from}");
        let found = judged(&good.replace(from, to), &around());
        let wrong: Vec<&Finding> = found.iter().filter(|one| one.grade < Grade::Note).collect();
        // A place that proxies plain HTTP sets no header either.
        let first = wrong.iter().find(|one| one.id == id);
        let first = first.unwrap_or_else(|| panic!("{from}: no {id} in {found:#?}"));
        assert!(first.seen.contains(words), "{from}: {first:?}");
        assert!(wrong.len() == 1 || id == "nginx.redirect", "{from}: {wrong:#?}");
    }
}

#[test]
fn versions_of_tls_that_are_not_set_are_the_sites_to_tell() {
    let unset = documented().replace("ssl_protocols TLSv1.2 TLSv1.3;", "");
    assert_eq!(grade(&judged(&unset, &around()), "nginx.protocols").0, Grade::Note);
}

#[test]
fn the_old_way_to_add_flags_is_understood() {
    let old = documented().replace(
        "proxy_cookie_flags session_id secure samesite=lax;",
        "proxy_cookie_path / \"/; Secure; HttpOnly; SameSite=strict\";",
    );
    assert_eq!(grade(&judged(&old, &around()), "nginx.cookie-flags").0, Grade::Pass);
    let pattern = documented().replace("proxy_cookie_flags session_id", "proxy_cookie_flags ~");
    assert_eq!(grade(&judged(&pattern, &around()), "nginx.cookie-flags").0, Grade::Fail);
    let all = documented().replace("proxy_cookie_flags session_id", "proxy_cookie_flags ~.");
    assert_eq!(grade(&judged(&all, &around()), "nginx.cookie-flags").0, Grade::Pass);
}

#[test]
fn servers_are_those_of_the_site_or_of_an_odoo() {
    let other = "server { listen 80; server_name wiki.example.com; location / { proxy_pass http://127.0.0.1:3000; } }";
    let both = format!("{}\n{other}", documented());
    let unnamed = Surroundings { host: None, ..around() };
    for around in [around(), unnamed.clone()] {
        let (_, seen) = grade(&judged(&both, &around), "nginx.configuration");
        assert!(seen.contains("shop.example.com") && !seen.contains("wiki"), "{seen}");
    }
    let wild = documented().replace("server_name shop.example.com", "server_name *.example.com");
    assert_eq!(grade(&judged(&wild, &around()), "nginx.configuration").0, Grade::Pass);
    assert_eq!(grade(&judged(other, &around()), "nginx.configuration").0, Grade::Unknown);
    // nginx without a name for it serves it by its first server.
    let default = documented().replace("server_name shop.example.com;", "");
    assert_eq!(grade(&judged(&default, &unnamed), "nginx.redirect").0, Grade::Pass);
}

#[test]
fn without_workers_no_websocket_route_is_needed() {
    let around = Surroundings { has_workers: false, ..around() };
    let without = documented()
        .replace("location /websocket   { proxy_pass http://odoo_evented; }", "")
        .replace("location /longpolling { proxy_pass http://odoo_evented; }", "");
    assert_eq!(grade(&judged(&without, &around), "nginx.websocket").0, Grade::Note);
    let with = Surroundings { has_workers: true, ..around };
    assert_eq!(grade(&judged(&without, &with), "nginx.websocket").0, Grade::Fail);
}

#[test]
fn what_cannot_be_looked_at_is_not_known() {
    let none = Err(NoConfiguration::None);
    for text in [none, Err(NoConfiguration::Unreadable("x".into())), Ok("nonsense".into())] {
        let found = findings(&text, &around());
        assert_eq!(grade(&found, "nginx.configuration").0, Grade::Unknown);
        assert_eq!(found.len(), 1);
    }
}

#[test]
fn logs_are_named_once() {
    let text = "# configuration file /n:\nerror_log /e notice; http { access_log /a combined; server { \
                access_log off; access_log /a; access_log syslog:server=x; access_log /v/$host; } }";
    assert_eq!(
        logs(text),
        [("/e", false), ("/a", false)].map(|(path, is)| (PathBuf::from(path), is))
    );
    let by_buffer = logs(
        "# configuration file /n:\nhttp { access_log /a; access_log /a main buffer=32k; access_log /b m gzip; }",
    );
    assert_eq!(by_buffer, [("/a", true), ("/b", true)].map(|(path, is)| (PathBuf::from(path), is)));
}

#[test]
fn only_what_redirects_every_request_is_a_redirect() {
    let with = |words: &str| {
        let to = format!("{words} location / {{ proxy_pass http://odoo; }}");
        let text = documented().replace("return 301 https://$host$request_uri;", &to);
        assert_ne!(text, documented());
        grade(&judged(&text, &around()), "nginx.redirect").0
    };
    for (words, wanted) in [
        ("", Grade::Fail),
        ("return 301 https://$host$request_uri;", Grade::Pass),
        ("return https://$host$request_uri;", Grade::Pass),
        ("if ($scheme = http) { return 301 https://$host$request_uri; }", Grade::Pass),
        (
            "if ($scheme != \"https\") { rewrite ^ https://$host$request_uri? permanent; }",
            Grade::Pass,
        ),
        ("if ($host = shop.example.com) { return 301 https://$host$request_uri; }", Grade::Pass),
        ("rewrite ^/(.*)$ https://$host/$1 permanent;", Grade::Pass),
        ("if ($scheme = https) { return 301 https://$host$request_uri; }", Grade::Unknown),
        (
            "if ($host = other.example.com) { return 301 https://$host$request_uri; }",
            Grade::Unknown,
        ),
        ("if ($request_uri ~ ^/old) { return 301 https://$host/new; }", Grade::Unknown),
        ("rewrite ^/old https://$host/new;", Grade::Unknown),
        ("if ($scheme = http) { return 301 http://$host/new; }", Grade::Fail),
    ] {
        assert_eq!(with(words), wanted, "{words}");
    }
}
