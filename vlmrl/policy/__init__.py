"""What maps observations to action chunks."""

from vlmrl.policy.learned import LearnedPolicy as LearnedPolicy
from vlmrl.policy.learned_value import LearnedValue as LearnedValue
from vlmrl.policy.remote import RemotePolicy as RemotePolicy
from vlmrl.policy.rerank import RerankedPolicy as RerankedPolicy
from vlmrl.policy.uniform import UniformPolicy as UniformPolicy
