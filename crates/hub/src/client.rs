//! HTTP to a hub: redirects that never carry the token away, retries with limits, errors that say what to do.
//! Must not know models or files.

use crate::listing::{Hub, Kind};
use crate::{Error, Result};
use std::io::Read;
use std::time::Duration;
use ureq::http::{HeaderMap, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

const REDIRECTS_MAX: usize = 10;
/// Longest wait that an answer 429 or 503 may ask for.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// How patient the client is.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Attempts without getting further.
    pub attempts_max: u32,
    /// Pause after the first failure; it doubles with each.
    pub pause: Duration,
    /// A connection that brings nothing for so long is cut.
    pub silence_max: Duration,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { attempts_max: 6, pause: Duration::from_secs(1), silence_max: Duration::from_secs(30) }
    }
}

/// A client of one hub.
pub struct Client {
    agent: Agent,
    hub: Hub,
}

/// An answer with status 200, 206 or 416.
pub struct Reply {
    pub response: Response<Body>,
    /// The hub's own entity tag and size of the file, from before it redirected to where the bytes are.
    pub linked_tag: Option<String>,
}

/// Why an attempt failed.
pub enum Failure {
    /// Another may succeed, at the earliest after so long.
    Passing { reason: String, wait: Duration },
    /// None will.
    Final(Error),
}

impl Failure {
    /// A failure after which nothing is gained by waiting longer than usual.
    pub fn passing(reason: impl std::fmt::Display) -> Failure {
        Failure::Passing { reason: reason.to_string(), wait: Duration::ZERO }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Final(error)
    }
}

impl Client {
    /// # Errors
    /// `SSL_CERT_FILE` names a file that holds no certificates.
    pub fn new(hub: &Hub) -> Result<Client> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("taoye/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(hub.policy.silence_max))
            .timeout_recv_response(Some(hub.policy.silence_max.saturating_mul(2)))
            .timeout_per_read(Some(hub.policy.silence_max));
        if let Some(roots) = own_roots()? {
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        if is_loopback(&hub.endpoint) {
            config = config.proxy(None);
        }
        Ok(Client { agent: config.build().new_agent(), hub: hub.clone() })
    }

    /// The text of an answer of at most `bytes_max`, with retries. `what` names it in errors.
    ///
    /// # Errors
    /// It isn't there, it isn't open to this user, or the hub kept failing.
    pub fn get_text(&self, url: &str, what: &str, bytes_max: u64) -> Result<String> {
        let mut attempts = Attempts::new(self, url);
        loop {
            let attempt = self.get(url, what, 0).and_then(|mut reply| {
                let mut text = String::new();
                let mut body = reply.response.body_mut().as_reader().take(bytes_max + 1);
                body.read_to_string(&mut text).map_err(Failure::passing)?;
                if text.len() as u64 > bytes_max {
                    let reason = format!("the answer is longer than {bytes_max} bytes");
                    return Err(Error::Answer { url: url.to_owned(), reason }.into());
                }
                Ok(text)
            });
            match attempt {
                Ok(text) => return Ok(text),
                Err(failure) => attempts.failed(failure)?,
            }
        }
    }

    /// One attempt to get the bytes of `url` from `first` on. Redirects are followed; the token goes to the hub alone.
    pub fn get(&self, url: &str, what: &str, first: u64) -> Result<Reply, Failure> {
        let mut at = url.to_owned();
        let mut linked_tag = None;
        for _ in 0..=REDIRECTS_MAX {
            let response = self.ask(&at, first)?;
            let at_hub = origin(&at) == origin(&self.hub.endpoint);
            let header = |name: &str| header(response.headers(), name).map(str::to_owned);
            linked_tag = linked_tag.or(header("x-linked-etag")).or(header("etag").filter(|_| at_hub));
            match response.status().as_u16() {
                200 | 206 | 416 => return Ok(Reply { response, linked_tag }),
                301 | 302 | 303 | 307 | 308 => {
                    let to = header("location").map(|location| join(&at, &location));
                    at = to.ok_or_else(|| self.useless(&at, "a redirect that leads nowhere"))?;
                    if url.starts_with("https://") && !at.starts_with("https://") {
                        return Err(self.useless(url, "a redirect to an address that is not encrypted"));
                    }
                }
                status => return Err(self.refused(&at, what, status, response.headers())),
            }
        }
        Err(self.useless(url, "too many redirects"))
    }

    fn ask(&self, url: &str, first: u64) -> Result<Response<Body>, Failure> {
        let mut request = self.agent.get(url);
        if first > 0 {
            request = request.header("Range", format!("bytes={first}-"));
        }
        if let Some(token) = self.hub.token.as_ref().filter(|_| origin(url) == origin(&self.hub.endpoint)) {
            request = request.header("Authorization", format!("Bearer {token}"));
            if self.hub.kind == Kind::ModelScope {
                request = request.header("Cookie", format!("m_session_id={token}"));
            }
        }
        request.call().map_err(|error| match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => {
                self.useless(url, format!("this is no address to ask ({error})"))
            }
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) => self.useless(
                url,
                format!("no trusted connection ({error}); where a company signs its own certificates, set SSL_CERT_FILE"),
            ),
            error => Failure::passing(error),
        })
    }

    /// What an unsuccessful status means.
    fn refused(&self, url: &str, what: &str, status: u16, headers: &HeaderMap) -> Failure {
        let (url, what) = (url.to_owned(), what.to_owned());
        let variable = self.hub.kind.token_variable();
        match status {
            401 | 404 | 410 => {
                let hint = match (self.hub.token.is_some(), self.hub.kind) {
                    (true, _) => "",
                    (false, Kind::HuggingFace) => ", or set HF_TOKEN if it is not public",
                    (false, Kind::ModelScope) => ", or set MODELSCOPE_API_TOKEN if it is not public",
                };
                Failure::Final(Error::NotFound { url, status, what, hint })
            }
            403 => Failure::Final(Error::Forbidden { url, what, variable }),
            408 | 425 | 429 | 500..=599 => {
                let asked = header(headers, "retry-after").and_then(|text| text.trim().parse().ok());
                let wait = asked.map_or(Duration::ZERO, Duration::from_secs).min(WAIT_MAX);
                Failure::Passing { reason: format!("the hub answers {status}"), wait }
            }
            _ => Failure::Final(Error::Answer { url, reason: format!("the hub answers {status}") }),
        }
    }

    fn useless(&self, url: &str, reason: impl Into<String>) -> Failure {
        Failure::Final(Error::Answer { url: url.to_owned(), reason: reason.into() })
    }

    /// How patient it is.
    pub fn policy(&self) -> &Policy {
        &self.hub.policy
    }
}

/// The attempts at one address that got no further.
pub struct Attempts<'a> {
    policy: &'a Policy,
    url: &'a str,
    failures: u32,
}

impl<'a> Attempts<'a> {
    pub fn new(client: &'a Client, url: &'a str) -> Attempts<'a> {
        Attempts { policy: client.policy(), url, failures: 0 }
    }

    /// Something has arrived: the count begins anew.
    pub fn got_further(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// It was the last one; the failure is final; or the user interrupts.
    pub fn failed(&mut self, failure: Failure) -> Result<()> {
        let (reason, wait) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing { reason, wait } => (reason, wait),
        };
        self.failures += 1;
        if self.failures >= self.policy.attempts_max {
            return Err(Error::Network { url: self.url.to_owned(), reason, attempts: self.failures });
        }
        let pause = self.policy.pause.saturating_mul(1 << (self.failures - 1).min(16));
        sleep(pause.min(WAIT_MAX).max(wait))
    }
}

/// Sleeps, awake enough to notice Ctrl-C.
fn sleep(time: Duration) -> Result<()> {
    const STEP: Duration = Duration::from_millis(100);
    let mut left = time;
    while !left.is_zero() {
        if base::interrupt::requested() {
            return Err(Error::Interrupted);
        }
        let step = left.min(STEP);
        std::thread::sleep(step);
        left -= step;
    }
    Ok(())
}

/// A header's text.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Scheme, host and port of an address, in lower case.
fn origin(url: &str) -> String {
    let after_scheme = url.find("://").map_or(0, |at| at + 3);
    let end = url[after_scheme..].find(['/', '?', '#']).map_or(url.len(), |at| after_scheme + at);
    url[..end].to_ascii_lowercase()
}

/// Where a redirect of `base` to `location` leads (RFC 3986, section 5.2, without dot segments).
fn join(base: &str, location: &str) -> String {
    let is_whole = location.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    });
    let root = origin(base);
    if is_whole {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{}:{location}", root.split("://").next().unwrap_or("https"))
    } else if location.starts_with('/') {
        format!("{root}{location}")
    } else {
        let path = base[root.len()..].split(['?', '#']).next().unwrap_or("");
        let folder = path.rfind('/').map_or("/", |at| &path[..=at]);
        format!("{root}{folder}{location}")
    }
}

fn is_loopback(url: &str) -> bool {
    let origin = origin(url);
    let host = origin.split("://").nth(1).unwrap_or("");
    host.starts_with("127.") || host.starts_with("[::1]") || host.split(':').next() == Some("localhost")
}

/// The certificates of `SSL_CERT_FILE`, trusted instead of the ones that are built in.
fn own_roots() -> Result<Option<RootCerts>> {
    let Some(path) = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let path = std::path::PathBuf::from(path);
    let text = std::fs::read(&path).map_err(|error| base::Error::io("read", &path, error))?;
    let certificates: Vec<Certificate<'static>> = parse_pem(&text)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        let reason = "SSL_CERT_FILE holds no certificate in PEM form".to_owned();
        return Err(Error::Answer { url: path.display().to_string(), reason });
    }
    Ok(Some(RootCerts::new_with_certs(&certificates)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_they_should() {
        for (base, location, expected) in [
            ("https://a.b/c/d?e", "https://x.y/z", "https://x.y/z"),
            ("https://a.b/c/d?e", "//x.y/z", "https://x.y/z"),
            ("https://a.b/c/d?e", "/z?to=https://q", "https://a.b/z?to=https://q"),
            ("https://a.b/c/d?e=/f", "z", "https://a.b/c/z"),
            ("http://a.b:8", "z", "http://a.b:8/z"),
        ] {
            assert_eq!(join(base, location), expected, "{base} {location}");
        }
    }

    #[test]
    fn origins_are_scheme_host_and_port() {
        for (a, b, same) in [
            ("https://a.b/x", "HTTPS://A.B", true),
            ("https://a.b", "http://a.b", false),
            ("https://a.b", "https://a.b:8443/", false),
            ("https://a.b", "https://a.b.evil/", false),
            ("https://a.b", "https://a.b@evil/", false),
            ("https://a.b?x", "https://a.b/", true),
        ] {
            assert_eq!(origin(a) == origin(b), same, "{a} {b}");
        }
        assert!(is_loopback("http://127.0.0.1:80/x") && is_loopback("http://localhost"));
        assert!(!is_loopback("https://localhost.evil"));
    }
}
