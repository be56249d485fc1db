//! One source file, read as tokens: its modules, and the paths that each of them uses.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Keywords that are followed by the name of an item.
const DECLARES: &[&str] = &[
    "struct", "enum", "union", "trait", "type", "fn", "const", "static",
];
/// Keywords that an item can begin with.
const BEGINS: &[&str] = &["pub", "use", "mod", "impl", "async", "unsafe", "extern"];

/// A path as it is written, split at `::`; `*` stands for all names.
pub(super) type Words = Vec<String>;

/// One name that a `use` brings.
pub(super) struct Use {
    pub(super) path: Words,
    /// The name in this module.
    pub(super) name: String,
}

/// A module in the file: the file's own, or one within it.
#[derive(Default)]
pub(super) struct Scope {
    /// The path of the module inside the file; empty for the file's own.
    pub(super) inside: Words,
    /// Its submodules that are files of their own.
    pub(super) files: Vec<String>,
    /// Names of the items defined in it.
    pub(super) items: BTreeSet<String>,
    pub(super) uses: Vec<Use>,
    /// Paths outside of `use` statements.
    pub(super) paths: Vec<Words>,
}

/// The modules of a file without its tests; the file's own module is the first.
///
/// # Panics
/// If the text is not Rust.
pub(super) fn scopes(text: &str) -> Vec<Scope> {
    let tokens: TokenStream = text.parse().expect("a source file is Rust");
    let mut scopes = vec![Scope::default()];
    read(tokens, 0, &mut scopes);
    scopes
}

/// Reads `tokens` of the module `at`.
fn read(tokens: TokenStream, at: usize, scopes: &mut Vec<Scope>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut rest = &tokens[..];
    while let Some(token) = rest.first() {
        let word = word(token);
        let read = match (token, word.as_deref()) {
            (TokenTree::Punct(punct), _) if punct.as_char() == '#' => attribute(rest),
            (_, Some("mod")) => module(rest, at, scopes),
            (_, Some("use")) => {
                let end = length_to(rest, &[';']);
                use_tree(&rest[1..end], Words::new(), &mut scopes[at].uses);
                end
            }
            (_, Some(word)) => {
                let path = path(rest);
                if DECLARES.contains(&word) {
                    scopes[at].items.extend(rest.get(1).and_then(self::word));
                }
                let length = path.len() * 3 - 2;
                if path.len() > 1 {
                    scopes[at].paths.push(path);
                }
                length
            }
            (TokenTree::Group(group), _) => {
                read(group.stream(), at, scopes);
                1
            }
            _ => 1,
        };
        rest = &rest[read.min(rest.len())..];
    }
}

fn word(token: &TokenTree) -> Option<String> {
    match token {
        TokenTree::Ident(ident) => Some(ident.to_string()),
        _ => None,
    }
}

fn is_punct(token: &TokenTree, marks: &[char]) -> bool {
    matches!(token, TokenTree::Punct(punct) if marks.contains(&punct.as_char()))
}

/// The number of tokens before the first of `marks`.
fn length_to(tokens: &[TokenTree], marks: &[char]) -> usize {
    let end = tokens.iter().position(|token| is_punct(token, marks));
    end.unwrap_or(tokens.len())
}

/// The length of an attribute in tokens; that of `#[cfg(test)]` includes its item.
fn attribute(tokens: &[TokenTree]) -> usize {
    let Some(TokenTree::Group(group)) = tokens.get(1) else {
        return 1;
    };
    if group.stream().to_string().replace(' ', "") != "cfg(test)" {
        return 2;
    }
    let mut length = 2;
    while tokens
        .get(length)
        .is_some_and(|next| is_punct(next, &['#']))
    {
        length += 2;
    }
    let first = tokens.get(length).and_then(word).unwrap_or_default();
    let is_item = BEGINS.contains(&&*first) || DECLARES.contains(&&*first);
    for token in &tokens[length.min(tokens.len())..] {
        length += 1;
        let is_body =
            matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
        if is_body || is_punct(token, &[';']) || !is_item && is_punct(token, &[',']) {
            break;
        }
    }
    length
}

/// Reads `mod name;` or `mod name { … }` and returns its length in tokens.
fn module(tokens: &[TokenTree], at: usize, scopes: &mut Vec<Scope>) -> usize {
    let Some(name) = tokens.get(1).and_then(word) else {
        return 1;
    };
    if let Some(TokenTree::Group(body)) = tokens.get(2) {
        let mut inside = scopes[at].inside.clone();
        inside.push(name);
        scopes.push(Scope {
            inside,
            ..Scope::default()
        });
        read(body.stream(), scopes.len() - 1, scopes);
    } else {
        scopes[at].files.push(name);
    }
    3
}

/// The path that begins here: words separated by `::`.
fn path(tokens: &[TokenTree]) -> Words {
    let mut words: Words = tokens.first().and_then(word).into_iter().collect();
    for next in tokens[1..].chunks_exact(3) {
        let is_colons = is_punct(&next[0], &[':']) && is_punct(&next[1], &[':']);
        match word(&next[2]) {
            Some(word) if is_colons => words.push(word),
            _ => break,
        }
    }
    words
}

/// Reads the part of a `use` that follows the path `before`.
fn use_tree(tokens: &[TokenTree], mut before: Words, uses: &mut Vec<Use>) {
    let mut name = None;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Ident(ident) if ident == "as" => {
                name = tokens.get(at + 1).and_then(word);
                break;
            }
            TokenTree::Ident(ident) if ident == "self" && !before.is_empty() => {}
            TokenTree::Ident(ident) => before.push(ident.to_string()),
            TokenTree::Punct(punct) if punct.as_char() == '*' => before.push("*".to_owned()),
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                for tree in inner.split(|token| is_punct(token, &[','])) {
                    if !tree.is_empty() {
                        use_tree(tree, before.clone(), uses);
                    }
                }
                return;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
    if let Some(last) = before.last() {
        uses.push(Use {
            name: name.unwrap_or_else(|| last.clone()),
            path: before,
        });
    }
}
