//! Names on a command line that may begin with the kind: `pod demo`, `pods`, `pod/demo`, `demo`.

/// The words after a verb, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// A bare kind word came first.
    pub kind: bool,
    /// The pods' names.
    pub names: Vec<String>,
}

/// Words that mean "pods".
fn is_kind(word: &str) -> bool {
    matches!(word, "pod" | "pods" | "po")
}

/// Reads the words after a verb. `pod/NAME` is a name always, a bare `pod` only the kind, and only in front.
///
/// # Errors
/// A sentence that names the word: another kind, or an empty name.
pub fn names(words: &[String]) -> Result<Names, String> {
    let kind = words.first().is_some_and(|word| is_kind(word));
    let names = words[usize::from(kind)..].iter().map(|word| name(word)).collect::<Result<_, _>>()?;
    Ok(Names { kind, names })
}

/// `NAME` or `pod/NAME`.
///
/// # Errors
/// As [`names`].
pub fn name(word: &str) -> Result<String, String> {
    let name = match word.split_once('/') {
        Some((kind, name)) if is_kind(kind) => name,
        Some((kind, _)) => return Err(format!("{word:?}: unknown kind {kind:?}; husk has pods: use pod/NAME or NAME")),
        None => word,
    };
    if name.is_empty() || name.contains('/') {
        return Err(format!("{word:?} is not a pod's name"));
    }
    Ok(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_may_stand_in_front_of_names() {
        let read = |words: &[&str]| names(&words.iter().map(|word| (*word).to_string()).collect::<Vec<_>>());
        assert_eq!(read(&["pod", "demo"]), Ok(Names { kind: true, names: vec!["demo".into()] }));
        assert_eq!(read(&["demo", "pod"]), Ok(Names { kind: false, names: vec!["demo".into(), "pod".into()] }));
        assert_eq!(read(&["pod/pod"]), Ok(Names { kind: false, names: vec!["pod".into()] }));
        assert!(read(&["service/x"]).is_err());
        assert!(read(&["pod/"]).is_err());
        assert!(read(&["pods", "a/b/c"]).is_err());
    }
}
