//! Messages that compress as those of an application do: names that repeat, values that do not.

/// The size of each message.
pub const JSON_BYTES: usize = 2_048;

const WORDS: [&str; 24] = [
    "garden", "copper", "window", "lantern", "harbour", "meadow", "silver", "basket", "kitchen",
    "marble", "winter", "orchard", "saddle", "pepper", "velvet", "canvas", "hammer", "ribbon",
    "barley", "candle", "thimble", "anchor", "walnut", "fountain",
];

/// A generator of numbers that need not be good (Marsaglia's xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn word(&mut self) -> &'static str {
        WORDS[self.next() as usize % WORDS.len()]
    }
}

/// An order as JSON, the same for the same number, and [`JSON_BYTES`] long.
pub fn json_message(number: u64) -> String {
    // An odd factor gives every number a state of its own, never zero.
    let mut numbers = Numbers((number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    for _ in 0..4 {
        numbers.next();
    }
    let mut text = head(number, &mut numbers);
    while text.len() < JSON_BYTES - 300 {
        text.push_str(&item(&mut numbers));
        text.push(',');
    }
    text.pop();
    text.push_str("],\"note\":\"");
    while text.len() < JSON_BYTES - 2 {
        text.push_str(numbers.word());
        text.push(' ');
    }
    text.truncate(JSON_BYTES - 2);
    text.push_str("\"}");
    text
}

fn head(number: u64, numbers: &mut Numbers) -> String {
    let (id, account) = (numbers.next(), numbers.next());
    let (name, family) = (numbers.word(), numbers.word());
    let verified = account.is_multiple_of(2);
    format!(
        "{{\"type\":\"order.updated\",\"number\":{number},\"id\":\"{id:016x}\",\"customer\":{{\
         \"id\":\"{account:016x}\",\"email\":\"{name}.{family}@example.com\",\"verified\":{verified}}},\"items\":["
    )
}

fn item(numbers: &mut Numbers) -> String {
    let (sku, cents) = (numbers.next() as u32, numbers.next() % 100_000);
    let [first, second, third] = [numbers.word(), numbers.word(), numbers.word()];
    let (quantity, is_in_stock) = (1 + sku % 9, !sku.is_multiple_of(7));
    let (whole, part) = (cents / 100, cents % 100);
    format!(
        "{{\"sku\":\"{sku:08x}\",\"title\":\"{first} {second} {third}\",\"quantity\":{quantity},\
         \"price\":{whole}.{part:02},\"in_stock\":{is_in_stock}}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_json_of_the_size_and_differ() {
        for number in [0, 1, 77, u64::from(u32::MAX)] {
            let text = json_message(number);
            assert_eq!(text.len(), JSON_BYTES);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["number"], number);
            assert_ne!(text, json_message(number + 1));
            assert_eq!(text, json_message(number));
        }
    }
}
