//! What the log keeps of the topics.

use tidings_types::{Retention, RetentionRules, Storage, TopicFilter};

use super::super::model::FEW;

pub fn rules() -> RetentionRules {
    let unlimited = Retention {
        storage: Storage::Durable,
        age_max: None,
        bytes_max: None,
        per_topic_max: None,
    };
    let rule = |filter: &str, retention| (TopicFilter::new(filter.to_owned()).unwrap(), retention);
    RetentionRules {
        rules: vec![
            rule(
                "m/#",
                Retention {
                    storage: Storage::Memory,
                    ..unlimited
                },
            ),
            rule(
                "n/#",
                Retention {
                    storage: Storage::None,
                    ..unlimited
                },
            ),
            rule(
                "few/#",
                Retention {
                    per_topic_max: Some(FEW),
                    ..unlimited
                },
            ),
        ],
        default: unlimited,
    }
}
