//! The least of an HTTP/1.1 client that a load generator needs: one request a connection, answers read as they come. Knows no
//! route.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long a server may say nothing.
const SILENCE: Duration = Duration::from_secs(300);

/// Where a server is.
#[derive(Clone, Debug)]
pub struct Place {
    authority: String,
    prefix: String,
    key: Option<String>,
}

impl Place {
    /// Reads `http://HOST[:PORT][/PATH]`; a path of `/v1` may be left out or given.
    ///
    /// # Errors
    /// The URL is none of that kind.
    pub fn read(url: &str, key: Option<String>) -> Result<Place> {
        let Some(rest) = url.strip_prefix("http://") else {
            bail!("{url}: only http:// is possible; put a server with TLS behind a local proxy");
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.is_empty() {
            bail!("{url}: no host");
        }
        let authority =
            if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
        let path = path.trim_end_matches('/');
        let path = path.strip_suffix("v1").unwrap_or(path).trim_end_matches('/');
        let prefix = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Place { authority, prefix, key })
    }

    /// Sends a request and reads the head of the answer.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Body> {
        let mut stream = TcpStream::connect(&self.authority)
            .with_context(|| format!("cannot reach {}", self.authority))?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_nodelay(true)?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let key = self.key.as_ref().map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
        let head = format!(
            "{method} {}{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n{key}\
             Content-Length: {}\r\n\r\n",
            self.prefix,
            self.authority,
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let status: u16 =
            line.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no HTTP answer")?;
        let mut is_chunked = false;
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            is_chunked |= header.starts_with("transfer-encoding:") && header.contains("chunked");
        }
        let mut body = Body { reader, is_chunked, left: 0, is_over: false };
        if status != 200 {
            let said = body.text().unwrap_or_default();
            bail!("{method} {path} was refused with status {status}: {}", said.trim());
        }
        Ok(body)
    }
}

/// An answer's body that is still to be read.
pub struct Body {
    reader: BufReader<TcpStream>,
    is_chunked: bool,
    /// Bytes of the chunk that are still to come.
    left: usize,
    is_over: bool,
}

impl Body {
    /// All of it.
    ///
    /// # Errors
    /// The connection breaks off.
    pub fn text(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Read for Body {
    /// RFC 9112, section 7.1, for bodies in chunks.
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if !self.is_chunked {
            return self.reader.read(buffer);
        }
        if self.left == 0 && !self.is_over {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            if line.trim().is_empty() {
                line.clear();
                self.reader.read_line(&mut line)?;
            }
            let size = line.trim().split(';').next().unwrap_or_default();
            self.left = usize::from_str_radix(size, 16).map_err(|_| {
                std::io::Error::new(std::io::ErrorKind::InvalidData, format!("chunk size {line:?}"))
            })?;
            self.is_over = self.left == 0;
        }
        if self.is_over {
            return Ok(0);
        }
        let wanted = buffer.len().min(self.left);
        let read = self.reader.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read;
        Ok(read)
    }
}
