//! Properties, and what packets are written with.

/// Properties, encoded as they are added (MQTT 5, 2.2.2).
#[derive(Clone, Debug, Default)]
pub struct Properties(pub(super) Vec<u8>);

impl Properties {
    /// A number of one byte.
    #[must_use]
    pub fn byte(mut self, id: u8, value: u8) -> Self {
        self.0.extend_from_slice(&[id, value]);
        self
    }

    /// A number of two bytes.
    #[must_use]
    pub fn short(mut self, id: u8, value: u16) -> Self {
        self.0.push(id);
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A number of four bytes.
    #[must_use]
    pub fn long(mut self, id: u8, value: u32) -> Self {
        self.0.push(id);
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A number of variable length.
    #[must_use]
    pub fn variable(mut self, id: u8, value: u32) -> Self {
        self.0.push(id);
        put_variable(&mut self.0, value);
        self
    }

    /// A text, or bytes.
    #[must_use]
    pub fn text(mut self, id: u8, value: impl AsRef<[u8]>) -> Self {
        self.0.push(id);
        put_text(&mut self.0, value.as_ref());
        self
    }

    /// A user property.
    #[must_use]
    pub fn user(mut self, name: &str, value: &str) -> Self {
        self.0.push(0x26);
        put_text(&mut self.0, name.as_bytes());
        put_text(&mut self.0, value.as_bytes());
        self
    }
}

/// Properties that were received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Those that are numbers, by their identifier.
    pub numbers: Vec<(u8, u32)>,
    /// Those that are texts or bytes.
    pub texts: Vec<(u8, Vec<u8>)>,
    /// User properties.
    pub users: Vec<(String, String)>,
}

impl Received {
    /// The first number with this identifier.
    pub fn number(&self, id: u8) -> Option<u32> {
        let found = self.numbers.iter().find(|(found, _)| *found == id);
        found.map(|(_, value)| *value)
    }

    /// The first text with this identifier.
    pub fn text(&self, id: u8) -> Option<String> {
        let found = self.texts.iter().find(|(found, _)| *found == id);
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }

    /// The first user property of this name.
    pub fn user(&self, name: &str) -> Option<&str> {
        let found = self.users.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn read(body: &mut &[u8]) -> Self {
        let len = take_variable(body) as usize;
        let (mut mine, rest) = body.split_at(len);
        *body = rest;
        let mut read = Self::default();
        while let Some((id, rest)) = mine.split_first() {
            mine = rest;
            match id {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => {
                    read.numbers.push((*id, take(&mut mine, 1)));
                }
                0x13 | 0x21 | 0x22 | 0x23 => read.numbers.push((*id, take(&mut mine, 2))),
                0x02 | 0x11 | 0x18 | 0x27 => read.numbers.push((*id, take(&mut mine, 4))),
                0x0b => read.numbers.push((*id, take_variable(&mut mine))),
                0x26 => {
                    let (name, value) = (take_text(&mut mine), take_text(&mut mine));
                    let text = |bytes| String::from_utf8(bytes).expect("user properties are UTF-8");
                    read.users.push((text(name), text(value)));
                }
                _ => read.texts.push((*id, take_text(&mut mine))),
            }
        }
        read
    }
}

pub(super) fn put_variable(bytes: &mut Vec<u8>, mut value: u32) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        bytes.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return;
        }
    }
}

pub(super) fn put_text(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend_from_slice(&(text.len() as u16).to_be_bytes());
    bytes.extend_from_slice(text);
}

pub(super) fn take(bytes: &mut &[u8], count: usize) -> u32 {
    let (mine, rest) = bytes.split_at(count);
    *bytes = rest;
    mine.iter()
        .fold(0, |value, byte| value << 8 | u32::from(*byte))
}

pub(super) fn take_variable(bytes: &mut &[u8]) -> u32 {
    let mut value = 0;
    for shift in [0, 7, 14, 21] {
        let byte = take(bytes, 1);
        value |= (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return value;
        }
    }
    panic!("a length of more than four bytes");
}

pub(super) fn take_text(bytes: &mut &[u8]) -> Vec<u8> {
    let len = take(bytes, 2) as usize;
    let (mine, rest) = bytes.split_at(len);
    *bytes = rest;
    mine.to_vec()
}
