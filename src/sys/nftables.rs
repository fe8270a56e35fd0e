//! Numbers of linux/netfilter/nf_tables.h: the attributes of messages to nf_tables, and values in them.

use crate::sys::netlink::{find, next, text_of};

/// Takes the first expression from the others: its name and its attributes.
#[inline(never)]
pub fn expression<'a>(expressions: &mut &'a [u8]) -> Option<(&'a str, &'a [u8])> {
    let (_, one) = next(expressions)?;
    Some((text_of(one, expression::NAME).unwrap_or_default(), find(one, expression::DATA).unwrap_or_default()))
}

/// A table.
pub mod table {
    /// NFTA_TABLE_NAME.
    pub const NAME: u16 = 1;
    /// NFTA_TABLE_FLAGS.
    pub const FLAGS: u16 = 2;
}

/// A chain.
pub mod chain {
    /// NFTA_CHAIN_TABLE.
    pub const TABLE: u16 = 1;
    /// NFTA_CHAIN_NAME.
    pub const NAME: u16 = 3;
    /// NFTA_CHAIN_HOOK: where packets come to it, if not only other chains lead there.
    pub const HOOK: u16 = 4;
    /// NFTA_CHAIN_POLICY.
    pub const POLICY: u16 = 5;
    /// NFTA_CHAIN_TYPE.
    pub const TYPE: u16 = 7;
    /// NFTA_HOOK_HOOKNUM.
    pub const HOOK_NUMBER: u16 = 1;
    /// NFTA_HOOK_PRIORITY.
    pub const HOOK_PRIORITY: u16 = 2;
}

/// A rule.
pub mod rule {
    /// NFTA_RULE_TABLE.
    pub const TABLE: u16 = 1;
    /// NFTA_RULE_CHAIN.
    pub const CHAIN: u16 = 2;
    /// NFTA_RULE_HANDLE.
    pub const HANDLE: u16 = 3;
    /// NFTA_RULE_EXPRESSIONS.
    pub const EXPRESSIONS: u16 = 4;
    /// NFTA_RULE_USERDATA.
    pub const USER_DATA: u16 = 7;
}

/// Each thing of a list.
pub const ELEMENT: u16 = 1;

/// An expression: NFTA_EXPR_NAME and NFTA_EXPR_DATA.
pub mod expression {
    /// What it is.
    pub const NAME: u16 = 1;
    /// Its own attributes.
    pub const DATA: u16 = 2;
}

/// A set or a map.
pub mod set {
    /// NFTA_SET_TABLE.
    pub const TABLE: u16 = 1;
    /// NFTA_SET_NAME.
    pub const NAME: u16 = 2;
    /// NFTA_SET_FLAGS.
    pub const FLAGS: u16 = 3;
    /// NFTA_SET_KEY_TYPE, a number that only `nft` understands.
    pub const KEY_TYPE: u16 = 4;
    /// NFTA_SET_KEY_LEN.
    pub const KEY_LENGTH: u16 = 5;
    /// NFTA_SET_DATA_TYPE.
    pub const DATA_TYPE: u16 = 6;
    /// NFTA_SET_ID, by which other messages of a batch name it.
    pub const ID: u16 = 10;
    /// NFTA_SET_USERDATA.
    pub const USER_DATA: u16 = 13;
    /// NFT_SET_ANONYMOUS: it goes with the rule that has it.
    pub const ANONYMOUS: u32 = 1;
    /// NFT_SET_CONSTANT.
    pub const CONSTANT: u32 = 2;
    /// NFT_SET_INTERVAL.
    pub const INTERVAL: u32 = 4;
    /// NFT_SET_MAP.
    pub const MAP: u32 = 8;
    /// NFT_DATA_VERDICT, a type of data.
    pub const VERDICTS: u32 = 0xffff_ff00;
}

/// Elements of a set.
pub mod elements {
    /// NFTA_SET_ELEM_LIST_TABLE.
    pub const TABLE: u16 = 1;
    /// NFTA_SET_ELEM_LIST_SET.
    pub const SET: u16 = 2;
    /// NFTA_SET_ELEM_LIST_ELEMENTS.
    pub const LIST: u16 = 3;
    /// NFTA_SET_ELEM_LIST_SET_ID.
    pub const SET_ID: u16 = 4;
    /// NFTA_SET_ELEM_KEY.
    pub const KEY: u16 = 1;
    /// NFTA_SET_ELEM_DATA.
    pub const DATA: u16 = 2;
    /// NFTA_SET_ELEM_FLAGS.
    pub const FLAGS: u16 = 3;
    /// NFTA_SET_ELEM_KEY_END: the last one of an interval of several values.
    pub const KEY_END: u16 = 10;
    /// NFT_SET_ELEM_INTERVAL_END: from here on nothing is in the set, until the next element begins an interval.
    pub const INTERVAL_END: u32 = 1;
    /// NFT_SET_ELEM_CATCHALL.
    pub const CATCH_ALL: u32 = 2;
}

/// An object that rules refer to by its name.
pub mod object {
    /// NFTA_OBJ_TABLE.
    pub const TABLE: u16 = 1;
    /// NFTA_OBJ_NAME.
    pub const NAME: u16 = 2;
    /// NFTA_OBJ_TYPE.
    pub const TYPE: u16 = 3;
    /// NFTA_OBJ_DATA.
    pub const DATA: u16 = 4;
    /// NFT_OBJECT_COUNTER.
    pub const COUNTER: u32 = 1;
    /// NFTA_COUNTER_PACKETS, in its data.
    pub const PACKETS: u16 = 2;
}

/// NFTA_DATA_VALUE and NFTA_DATA_VERDICT: what is in data.
pub mod data {
    /// Bytes.
    pub const VALUE: u16 = 1;
    /// What becomes of a packet.
    pub const VERDICT: u16 = 2;
    /// NFTA_VERDICT_CODE.
    pub const CODE: u16 = 1;
    /// NFTA_VERDICT_CHAIN.
    pub const CHAIN: u16 = 2;
    /// NFT_JUMP.
    pub const JUMP: i32 = -3;
    /// NFT_GOTO.
    pub const GOTO: i32 = -4;
    /// NFT_RETURN.
    pub const RETURN: i32 = -5;
}

/// NFPROTO_INET: tables for both families.
pub const INET: libc::c_int = 1;
