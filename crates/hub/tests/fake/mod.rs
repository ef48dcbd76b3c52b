//! A hub of one thread over `std::net` that answers as a closure says. Must not know the client.

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Path and query.
    pub path: String,
    /// The first byte that is asked for.
    pub first: Option<u64>,
    /// The `Authorization` header.
    pub token: Option<String>,
}

/// What is sent back.
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// The connection ends after so many bytes of the body, whose length is announced whole.
    cut: Option<usize>,
}

impl Answer {
    pub fn ok(body: Vec<u8>) -> Answer {
        Answer { status: 200, headers: Vec::new(), body, cut: None }
    }

    pub fn status(status: u16) -> Answer {
        Answer { status, ..Answer::ok(Vec::new()) }
    }

    /// A file's bytes, from the one on that was asked for.
    pub fn file(content: &[u8], seen: &Seen) -> Answer {
        match seen.first {
            None => Answer::ok(content.to_vec()),
            Some(first) => {
                let range = format!("bytes {first}-{}/{}", content.len() - 1, content.len());
                Answer::ok(content[first as usize..].to_vec())
                    .with_status(206)
                    .header("Content-Range", &range)
            }
        }
    }

    pub fn with_status(self, status: u16) -> Answer {
        Answer { status, ..self }
    }

    pub fn header(mut self, name: &str, value: &str) -> Answer {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn cut_after(mut self, bytes: usize) -> Answer {
        self.cut = Some(bytes);
        if self.body.is_empty() {
            self.body = vec![b' '];
        }
        self
    }

    fn send(&self, mut to: TcpStream) -> std::io::Result<()> {
        let mut head = format!(
            "HTTP/1.1 {} -\r\nConnection: close\r\nContent-Length: {}\r\n",
            self.status,
            self.body.len()
        );
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        to.write_all(head.as_bytes())?;
        to.write_all(b"\r\n")?;
        to.write_all(&self.body[..self.cut.unwrap_or(self.body.len()).min(self.body.len())])
    }
}

/// A running hub; its thread ends with the process.
pub struct Fake {
    address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Fake {
    /// `answer` is given a request and how many came before with the same path.
    pub fn start(answer: impl Fn(&Seen, usize) -> Answer + Send + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::<Seen>::new()));
        let log = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                let Some(request) = read_head(&stream) else { continue };
                let earlier = {
                    let mut log = log.lock().unwrap();
                    let earlier = log.iter().filter(|before| before.path == request.path).count();
                    log.push(request.clone());
                    earlier
                };
                // The client may have gone away.
                let _ = answer(&request, earlier).send(stream);
            }
        });
        Fake { address, seen }
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

fn read_head(stream: &TcpStream) -> Option<Seen> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut seen = Seen { path, first: None, token: None };
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            return Some(seen);
        }
        let (name, value) = line.split_once(':')?;
        match name.to_lowercase().as_str() {
            "range" => seen.first = value.trim().strip_prefix("bytes=")?.trim_end_matches('-').parse().ok(),
            "authorization" => seen.token = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    None
}

pub fn sha256(content: &[u8]) -> String {
    hexadecimal(digest(&SHA256, content).as_ref())
}

/// As `git hash-object` gives it.
pub fn git_sha1(content: &[u8]) -> String {
    let blob = [format!("blob {}\0", content.len()).as_bytes(), content].concat();
    hexadecimal(digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
